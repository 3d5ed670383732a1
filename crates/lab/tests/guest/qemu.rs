//! A guest with another kernel and real drivers, by software emulation.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::again::skip;
use super::initramfs::{Archive, modules};

/// One guest.
pub struct Guest<'a> {
    /// What its files are called.
    pub name: &'a str,
    /// Its devices, as `-device ...` and `-netdev ...`.
    pub devices: &'a [&'a str],
    /// The drivers that are loaded.
    pub drivers: &'a [&'a str],
    /// Programs of this machine that it has beside busybox, ethtool and linerate.
    pub tools: &'a [&'a str],
}

/// How often a guest is booted that stands still: the emulation loses an interrupt now and then, and
/// what waits for it waits for ever.
const TRIES: u32 = 3;

/// What a guest is made of.
pub struct Parts {
    vmlinuz: PathBuf,
    modules: PathBuf,
    busybox: PathBuf,
    linerate: PathBuf,
}

impl Parts {
    /// Those of this machine, or what is missing. `LINERATE_GUEST` is a directory into which a Debian
    /// kernel package was unpacked, and which has the static binary `linerate`.
    pub fn find() -> Result<Parts, String> {
        let found = Command::new("qemu-system-x86_64").arg("--version").output();
        if !found.is_ok_and(|o| o.status.success()) {
            return Err("qemu-system-x86_64 is not installed".into());
        }
        let dir = std::env::var("LINERATE_GUEST")
            .map_err(|_| "LINERATE_GUEST names no directory with a kernel (see .ci/guest)")?;
        let dir = PathBuf::from(dir);
        let busybox = PathBuf::from("/bin/busybox");
        let boot = dir.join("boot");
        let vmlinuz = fs::read_dir(&boot).ok().and_then(|entries| {
            let names = entries.flatten().map(|e| e.path());
            names.into_iter().find(|p| p.display().to_string().contains("vmlinuz-"))
        });
        let vmlinuz = vmlinuz.ok_or_else(|| format!("no vmlinuz in {}", boot.display()))?;
        let linerate = dir.join("linerate");
        for file in [&busybox, &linerate] {
            if !file.exists() {
                return Err(format!("{} is not there", file.display()));
            }
        }
        Ok(Parts { vmlinuz, modules: dir.join("lib/modules"), busybox, linerate })
    }

    /// Boots a guest, loads the drivers, runs the script and powers it off. Returns what the script
    /// printed.
    pub fn run(&self, guest: &Guest<'_>, script: &str) -> String {
        let name = format!("linerate-guest-{}-{}", guest.name, std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let image = dir.join("initramfs");
        fs::write(&image, self.initramfs(guest, script)).unwrap();
        let printed = (0..TRIES).find_map(|_| boot(self, guest, &dir));
        fs::remove_dir_all(&dir).unwrap();
        printed.unwrap_or_else(|| panic!("{}: {TRIES} guests in turn stood still", guest.name))
    }

    fn initramfs(&self, guest: &Guest<'_>, script: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        for dir in ["proc", "sys", "dev", "tmp", "etc", "run", "var/lib", "lib"] {
            archive.dir(dir);
        }
        archive.file("bin/busybox", 0o755, &fs::read(&self.busybox).unwrap());
        archive.file("bin/linerate", 0o755, &fs::read(&self.linerate).unwrap());
        archive.link("bin/sh", "busybox");
        // Somebody else's tool, to set what linerate then finds, and to look over its shoulder.
        let mut files = BTreeSet::new();
        for tool in ["ethtool"].iter().chain(guest.tools) {
            for file in with_libraries(tool) {
                let name = match Path::new(&file).file_name() {
                    Some(program) if program == *tool => format!("bin/{tool}"),
                    _ => file.trim_start_matches('/').to_owned(),
                };
                if files.insert(name.clone()) {
                    archive.file(&name, 0o755, &fs::read(&file).unwrap());
                }
            }
        }
        let mut insert = String::new();
        let drivers = [guest.drivers, &["virtio_pci", "virtio_console"]].concat();
        for path in modules(&self.modules, &drivers).unwrap() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            archive.file(&format!("lib/{name}"), 0o644, &fs::read(&path).unwrap());
            insert += &format!("insmod /lib/{name}\n");
        }
        archive.file("script", 0o755, script.as_bytes());
        let init = format!(
            "#!/bin/sh\n/bin/busybox --install -s /bin 2> /dev/null\nexport PATH=/bin HOME=/tmp\n\
             mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
             mount -t tracefs tracefs /sys/kernel/tracing\n{insert}\
             ip link set lo up\n\
             until (: > /dev/hvc0) 2> /dev/null; do sleep 0.1; done\nexec > /dev/hvc0 2>&1\n\
             echo '-- begin'\nsh /script\necho '-- end'\npoweroff -f\n"
        );
        archive.file("init", 0o755, init.as_bytes());
        archive.finish()
    }
}

/// Boots it once; what its script printed, or nothing if it stood still.
fn boot(parts: &Parts, guest: &Guest<'_>, dir: &Path) -> Option<String> {
    let (said, kernel) = (dir.join("said"), dir.join("kernel"));
    let mut qemu = Command::new("timeout");
    // It needs some ten seconds, and on a machine that is busy some hundred.
    qemu.args(["400", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2"]);
    qemu.args(["-m", "512", "-display", "none", "-no-reboot", "-nodefaults"]);
    qemu.args(["-serial", &format!("file:{}", kernel.display())]);
    qemu.arg("-kernel").arg(&parts.vmlinuz).arg("-initrd").arg(dir.join("initramfs"));
    // On a machine that is busy the emulated timer is late, which the kernel would take for broken.
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check"]);
    qemu.args(guest.devices);
    // What the script prints goes over a console that waits for no interrupt, unlike the serial port
    // of QEMU 7.2, which stopped once in the middle of a report and never went on.
    let bus = if guest.devices.contains(&"q35") { "pcie.0" } else { "pci.0" };
    qemu.args(["-device", &format!("virtio-serial-pci,bus={bus}")]);
    qemu.args(["-device", "virtconsole,chardev=said"]);
    qemu.args(["-chardev", &format!("file,id=said,path={}", said.display())]);
    let out = qemu.stdin(Stdio::null()).output().unwrap();
    let read =
        |file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).replace('\r', "");
    let (said, kernel) = (read(&said), read(&kernel));
    let inside = said.split_once("-- begin\n").and_then(|(_, rest)| rest.split_once("-- end\n"));
    if let Some((printed, _)) = inside {
        return Some(printed.to_owned());
    }
    let err = String::from_utf8_lossy(&out.stderr);
    let told = format!("the guest did not come to its end:\n{kernel}\n{said}\n{err}");
    // timeout(1) ends with 124 when it was it that ended the command.
    assert!(out.status.code() == Some(124), "{told}");
    eprintln!("{told}");
    None
}

/// A program and the libraries that it is linked to, by their paths.
fn with_libraries(program: &str) -> Vec<String> {
    let run = |words: &[&str]| {
        let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let path = run(&["sh", "-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}")]);
    let path = path.trim().to_owned();
    assert!(!path.is_empty(), "{program} is not installed");
    let linked = run(&["ldd", &path]);
    let libraries = linked.split_whitespace().filter(|w| w.starts_with('/')).map(str::to_owned);
    std::iter::once(path.clone()).chain(libraries).collect()
}

/// The part of what was printed behind `## name` up to the next such line.
pub fn part<'a>(printed: &'a str, name: &str) -> &'a str {
    let begin = format!("## {name}\n");
    let at = printed.find(&begin).unwrap_or_else(|| panic!("no part {name} in:\n{printed}"));
    let rest = &printed[at + begin.len()..];
    rest.split("\n## ").next().unwrap_or(rest)
}

/// Where a test says that it can not run here.
pub fn parts(test: &str) -> Option<Parts> {
    Parts::find().map_err(|why| skip(test, &why)).ok()
}
