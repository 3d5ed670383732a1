//! The mount namespace: `/proc` and `/sys` of the new namespaces, and the store that the files
//! laid over the host's come from.

use super::refused::{Refused, Step};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Two files in a tmpfs that stays mounted beneath `/proc`, where nothing can reach it but by the
/// descriptors here: they remain a source for bind mounts however often one is needed.
#[derive(Debug)]
pub(super) struct Store {
    pub resolv_conf: OwnedFd,
    pub empty: OwnedFd,
}

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Mounts the store and, on top of it, `/proc`: a fresh one for a new PID namespace, the old one
/// otherwise.
pub(super) fn proc_over_store(fresh: bool, resolv_conf: &str) -> Result<Store, Refused> {
    let old = clone_tree(Path::new("/proc"))
        .map_err(Refused::at(Step::Other, "cannot clone the mount of /proc"))?;
    mount(Some("linerate"), "/proc", Some("tmpfs"), QUIET, Some("mode=755"))
        .map_err(Refused::at(Step::Other, "cannot mount a tmpfs"))?;
    let file = |name: &str, text: &str| -> io::Result<OwnedFd> {
        let path = Path::new("/proc").join(name);
        fs::write(&path, text)?;
        Ok(rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    };
    let store = file("resolv.conf", resolv_conf)
        .and_then(|resolv_conf| Ok(Store { resolv_conf, empty: file("empty", "")? }))
        .map_err(Refused::at(Step::Other, "cannot write the files laid over the host's"));
    if fresh {
        mount(Some("proc"), "/proc", Some("proc"), QUIET, None::<&str>)
            .map_err(Refused::at(Step::Proc, "cannot mount /proc"))?;
    } else {
        attach(&old, Path::new("/proc"))
            .map_err(Refused::at(Step::Other, "cannot put /proc back"))?;
    }
    store
}

/// A detached copy of the mount at `path` with everything below it.
fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts `/sys` anew, so that it shows the devices of the new network namespace, and puts the
/// mounts below it (cgroups, debugfs) back. Returns what was lost, if anything.
pub(super) fn fresh_sys() -> Vec<String> {
    if !Path::new("/sys/class").exists() {
        return Vec::new();
    }
    let kept: Vec<(PathBuf, io::Result<OwnedFd>)> =
        mounts_below("/sys").into_iter().map(|path| (path.clone(), clone_tree(&path))).collect();
    let fresh = |flags| mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>);
    // Where the visible one is read-only, as in containers, the kernel wants the new one to be.
    if let Err(err) = fresh(QUIET).or_else(|_| fresh(QUIET | MsFlags::MS_RDONLY)) {
        return hide_host_devices(err);
    }
    kept.into_iter()
        .filter_map(|(path, tree)| {
            let err = tree.and_then(|tree| attach(&tree, &path)).err()?;
            Some(format!("{} is not mounted inside: {err}", path.display()))
        })
        .collect()
}

/// The second best: the directories that name network devices become empty.
fn hide_host_devices(why: nix::Error) -> Vec<String> {
    let mut notes =
        vec![format!("/sys cannot be mounted anew ({why}): no devices are shown there")];
    for dir in ["/sys/class/net", "/sys/devices/virtual/net"] {
        let hidden =
            mount(Some("linerate"), dir, Some("tmpfs"), QUIET | MsFlags::MS_RDONLY, None::<&str>);
        if let Err(err) = hidden
            && Path::new(dir).exists()
        {
            notes.push(format!("{dir} still shows the host's devices: {err}"));
        }
    }
    notes
}

/// The mount points right below `top`, without those below one of them.
fn mounts_below(top: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    outermost_below(&table, top)
}

fn outermost_below(table: &str, top: &str) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(top) && point != Path::new(top))
        .collect();
    points.sort();
    points.dedup_by(|later, earlier| later.starts_with(&*earlier));
    points
}

/// `mountinfo` writes a blank, tab, newline or backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, char)| text.replace(code, char))
}

/// Binds the file that `source` refers to over `target`.
pub(super) fn bind(source: &OwnedFd, target: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    Ok(mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Makes `file` exist with `text` in it although nobody may write the host's `dir`, its nearest
/// existing ancestor: a tmpfs takes the place of `dir`, with every entry of it bound into place.
pub(super) fn create_over(dir: &Path, file: &Path, text: &str) -> io::Result<()> {
    enum Entry {
        Link(PathBuf),
        Dir(OwnedFd),
        File(OwnedFd),
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let what = if kind.is_symlink() {
            Entry::Link(fs::read_link(&path)?)
        } else if kind.is_dir() {
            Entry::Dir(clone_tree(&path)?)
        } else {
            Entry::File(clone_tree(&path)?)
        };
        entries.push((path, what));
    }
    mount(
        Some("linerate"),
        dir,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )?;
    let filled = (|| {
        for (path, what) in &entries {
            match what {
                Entry::Link(to) => std::os::unix::fs::symlink(to, path)?,
                Entry::Dir(tree) => {
                    fs::create_dir(path)?;
                    attach(tree, path)?;
                }
                Entry::File(tree) => {
                    fs::File::create(path)?;
                    attach(tree, path)?;
                }
            }
        }
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, text)
    })();
    if filled.is_err() {
        umount2(dir, MntFlags::MNT_DETACH)?;
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_mounts_are_found() {
        let table = "\
22 1 0:20 / /sys rw - sysfs sysfs rw
23 22 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw
24 23 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw
25 22 0:23 / /sys/fs/cgroup2 rw - cgroup2 none rw
26 1 0:24 / /system rw - ext4 none rw
27 22 0:25 / /sys/a\\040b rw - ext4 none rw
";
        let expect: Vec<PathBuf> =
            ["/sys/a b", "/sys/fs/cgroup", "/sys/fs/cgroup2"].map(PathBuf::from).into();
        assert_eq!(outermost_below(table, "/sys"), expect);
    }
}
