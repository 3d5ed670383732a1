//! Which ids of the host the program's user namespace has, and who writes its maps.

use super::plan::{IdMap, UserMode};
use super::refused::{Refused, Step};
use super::spawn::{SpawnError, other};
use nix::unistd::{Gid, Uid, User};
use rustix::thread::CapabilitySet;
use std::fs;
use std::process::Command;

/// Decides about the user namespace.
pub(super) fn id_map(mode: UserMode) -> Result<IdMap, SpawnError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    let held = rustix::thread::capabilities(None)
        .map_err(|err| other("cannot read our capabilities", err))?
        .effective;
    if uid.is_root() && held.contains(needed) {
        return Ok(IdMap::Host);
    }
    Ok(match mode {
        UserMode::Own => IdMap::Own { uid: uid.as_raw(), gid: gid.as_raw() },
        UserMode::SubIds => {
            let uids = sub_ids("/etc/subuid", uid)?.1;
            let gids = sub_ids("/etc/subgid", uid)?.1;
            IdMap::Sub { ids: uids.min(gids).saturating_add(1) }
        }
    })
}

/// The first range that a file like `/etc/subuid` grants to a user: its start and its length.
fn sub_ids(path: &str, uid: Uid) -> Result<(u32, u32), SpawnError> {
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(path).unwrap_or_default();
    find_range(&text, &uid.to_string(), name.as_deref()).ok_or_else(|| {
        SpawnError::Namespaces(format!(
            "{path} grants no ids to uid {uid}: run `usermod --add-subuids 100000-165535 \
             --add-subgids 100000-165535 USER` as root"
        ))
    })
}

fn find_range(text: &str, uid: &str, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = words[..] else { return None };
        let ours = owner == uid || Some(owner) == name;
        let (start, count) = (start.parse().ok()?, count.parse().ok()?);
        (ours && count > 0).then_some((start, count))
    })
}

/// Has the setuid tools write the maps of the helper's user namespace.
pub(super) fn write_id_maps(helper: u32) -> Result<(), Refused> {
    let uid = Uid::effective();
    let maps = [
        ("newuidmap", "/etc/subuid", uid.as_raw()),
        ("newgidmap", "/etc/subgid", Gid::effective().as_raw()),
    ];
    for (tool, file, own) in maps {
        let refused = |why: String| Refused::new(Step::Namespaces, why);
        let (start, count) = sub_ids(file, uid).map_err(|err| refused(err.to_string()))?;
        let args = [helper, 0, own, 1, 1, start, count].map(|number| number.to_string());
        match Command::new(tool).args(args).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(refused(format!("{tool} refused to map the ids of {file}: {said}")));
            }
            Err(err) => {
                return Err(refused(format!(
                    "cannot run {tool} ({err}): install the package `uidmap` (or shadow-utils)"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number() {
        let text = "root:1:2\nada:100000:65536\n1001:200000:10\nbob:5:0\nbad line\n";
        assert_eq!(find_range(text, "7", Some("ada")), Some((100_000, 65536)));
        assert_eq!(find_range(text, "1001", None), Some((200_000, 10)));
        assert_eq!(find_range(text, "9", Some("bob")), None);
    }
}
