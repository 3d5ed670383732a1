//! When the kernel refuses: one sentence that names what is missing and what grants it.

use super::plan::IdMap;
use nix::errno::Errno;
use std::fs;

/// Why a helper gave up: which step, and the sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub step: Step,
    pub why: String,
}

/// The steps that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Making the namespaces or writing the id maps.
    Namespaces,
    /// Opening the device or making the veth pair.
    Device,
    /// Addresses, routes, links.
    Network,
    /// Mounting `/proc` of the PID namespace: the parent tries again without one.
    Proc,
    /// Anything else: a sentence with the system's own error in it.
    Other,
}

impl Step {
    const NAMES: [(Step, &'static str); 5] = [
        (Step::Namespaces, "namespaces"),
        (Step::Device, "device"),
        (Step::Network, "network"),
        (Step::Proc, "proc"),
        (Step::Other, "other"),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(step, _)| *step == self).map_or("other", |(_, name)| name)
    }

    pub fn from_name(name: &str) -> Step {
        Self::NAMES.iter().find(|(_, known)| *known == name).map_or(Step::Other, |(step, _)| *step)
    }
}

impl Refused {
    pub fn new(step: Step, why: impl Into<String>) -> Refused {
        Refused { step, why: why.into() }
    }

    /// For `map_err`: `what` failed with a system error.
    pub fn at<E: std::fmt::Display>(step: Step, what: &str) -> impl FnOnce(E) -> Refused {
        move |err| Refused::new(step, format!("{what}: {err}"))
    }
}

/// What the kernel says about namespaces, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub max_user_namespaces: Option<String>,
    pub max_net_namespaces: Option<String>,
    pub unprivileged_clone: Option<String>,
    pub apparmor: Option<String>,
    pub container: bool,
}

impl Settings {
    pub fn read() -> Settings {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_string());
        Settings {
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces"),
            max_net_namespaces: read("/proc/sys/user/max_net_namespaces"),
            unprivileged_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            container: fs::exists("/.dockerenv").unwrap_or(false)
                || fs::exists("/run/.containerenv").unwrap_or(false),
        }
    }

    /// The sentence for a refused user namespace, or one in which we have no rights.
    pub fn user_namespace(&self, err: Errno) -> String {
        let is = |value: &Option<String>, text: &str| value.as_deref() == Some(text);
        let remedy = if is(&self.max_user_namespaces, "0") {
            "user.max_user_namespaces is 0; run `sysctl -w user.max_user_namespaces=10000` as root"
        } else if is(&self.unprivileged_clone, "0") {
            "kernel.unprivileged_userns_clone is 0; \
             run `sysctl -w kernel.unprivileged_userns_clone=1` as root"
        } else if is(&self.apparmor, "1") {
            "AppArmor restricts user namespaces; run \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as root, or give linerate \
             an AppArmor profile with the rule `userns,`"
        } else if err == Errno::ENOSPC {
            "the limit of namespaces is reached; raise user.max_user_namespaces and \
             user.max_net_namespaces with sysctl as root"
        } else if err == Errno::EUSERS {
            "user namespaces are nested too deeply (32 levels); run it further out"
        } else if err == Errno::EINVAL || err == Errno::ENOSYS {
            "this kernel was built without them (CONFIG_USER_NS); run it as root"
        } else if self.container {
            "the container's seccomp filter forbids them; start the container with \
             `--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined`, \
             or with `--security-opt seccomp=unconfined`"
        } else {
            "a seccomp filter, a chroot or a security module forbids them; run it as root, or allow \
             unshare(CLONE_NEWUSER)"
        };
        format!("cannot create a user namespace ({err}): {remedy}")
    }

    /// The sentence for refused network, mount or PID namespaces.
    pub fn other_namespaces(&self, ids: IdMap, err: Errno) -> String {
        if ids != IdMap::Host {
            return self.user_namespace(err);
        }
        if err == Errno::ENOSPC || self.max_net_namespaces.as_deref() == Some("0") {
            return format!(
                "cannot create a network namespace ({err}): the limit is reached; raise \
                 user.max_net_namespaces with sysctl as root"
            );
        }
        let remedy = if self.container {
            "start the container with `--cap-add SYS_ADMIN --cap-add NET_ADMIN \
             --security-opt apparmor=unconfined --device /dev/net/tun`"
        } else {
            "it takes CAP_SYS_ADMIN and CAP_NET_ADMIN"
        };
        format!("cannot create a network namespace ({err}): {remedy}")
    }
}

/// What grants the clone device.
const GRANT_TUN: &str = "Grant /dev/net/tun (`modprobe tun` and `chmod 0666 /dev/net/tun` as root; \
    in a container `--device /dev/net/tun --cap-add NET_ADMIN`)";

/// The sentence for a TUN that was asked for and cannot be had.
pub(super) fn no_tun(why: &str) -> String {
    format!("no device for the packets: {why}. {GRANT_TUN}, or let a veth pair carry them")
}

/// The sentence for a network namespace without any device that could carry packets.
pub(super) fn no_device(tun: &str, veth: &str) -> String {
    format!(
        "no device for the packets: {tun}; and a veth pair with a packet socket instead: {veth}. \
         {GRANT_TUN}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { max_user_namespaces: Some("96365".into()), ..Settings::default() }
    }

    #[test]
    fn each_refusal_names_its_own_remedy() {
        let cases = [
            (
                Settings { max_user_namespaces: Some("0".into()), ..settings() },
                Errno::ENOSPC,
                "sysctl -w user.max_user_namespaces",
            ),
            (
                Settings { unprivileged_clone: Some("0".into()), ..settings() },
                Errno::EPERM,
                "sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (
                Settings { apparmor: Some("1".into()), ..settings() },
                Errno::EACCES,
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (Settings { container: true, ..settings() }, Errno::EPERM, "--security-opt seccomp"),
            (settings(), Errno::ENOSPC, "user.max_net_namespaces"),
            (settings(), Errno::EINVAL, "CONFIG_USER_NS"),
            (settings(), Errno::EPERM, "seccomp filter, a chroot"),
        ];
        for (settings, err, expect) in cases {
            let text = settings.user_namespace(err);
            assert!(text.contains(expect), "{expect} is not in: {text}");
            assert!(text.starts_with("cannot create a user namespace ("), "{text}");
        }
        let docker = Settings { container: true, ..settings() };
        let text = docker.other_namespaces(IdMap::Host, Errno::EPERM);
        assert!(text.contains("--device /dev/net/tun"), "{text}");
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        for (step, name) in Step::NAMES {
            assert_eq!(step.name(), name);
            assert_eq!(Step::from_name(name), step);
        }
    }
}
