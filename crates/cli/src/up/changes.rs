//! What is changed on the host: written down first, undone at the end, and undone by whoever starts
//! next if this process is killed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use linerate_dev::journal::{Change, Journal};

/// The changes of this process.
pub struct Changes {
    name: String,
    dir: PathBuf,
    /// Opened with the first change: most starts make none.
    journal: Option<Journal>,
    /// What the kernel ignores now because of us, by interface.
    ignored: HashMap<String, Vec<IpAddr>>,
}

impl Changes {
    /// Undoes what processes left that were killed, and begins anew under `name`. What was undone
    /// is told, in sentences.
    pub fn begin(name: &str) -> (Changes, Vec<String>) {
        let dir = place();
        let notes = match Journal::recover(&dir) {
            Ok(all) => all.into_iter().flat_map(|left| left.notes).collect(),
            Err(e) => vec![e.to_string()],
        };
        let (name, ignored) = (name.to_owned(), HashMap::new());
        (Changes { name, dir, journal: None, ignored }, notes)
    }

    /// Makes a change; false if it is so already.
    ///
    /// # Errors
    /// A sentence; the host is as before then.
    pub fn make(&mut self, change: &Change) -> Result<bool, String> {
        let journal = match &mut self.journal {
            Some(journal) => journal,
            none => {
                let open = Journal::open(&self.dir, &self.name);
                none.insert(open.map_err(|e| e.to_string())?)
            }
        };
        journal.change(change).map_err(|e| e.to_string())
    }

    /// The same, only if it is `needed`: without rights, and without need, nothing is tried.
    ///
    /// # Errors
    /// As [`Changes::make`].
    pub fn make_if(&mut self, needed: bool, change: &Change) -> Result<bool, String> {
        if needed { self.make(change) } else { Ok(false) }
    }

    /// Has the kernel ignore these addresses on an interface, and no others of ours that it ignored
    /// until now. Whether that is a change.
    ///
    /// # Errors
    /// A sentence; the kernel ignores what it did before.
    pub fn ignore(&mut self, ifname: &str, addrs: Vec<IpAddr>) -> Result<bool, String> {
        let before = self.ignored.get(ifname).cloned().unwrap_or_default();
        if before == addrs {
            return Ok(false);
        }
        if !addrs.is_empty() {
            let (ifname, addrs) = (ifname.to_owned(), addrs.clone());
            self.make(&Change::Ignore { ifname, addrs })?;
        }
        // In this order what is in both lists is ignored without a gap.
        if let Some(journal) = self.journal.as_mut().filter(|_| !before.is_empty())
            && let Err(why) = journal.heed(ifname, &before)
        {
            if !addrs.is_empty() {
                journal.heed(ifname, &addrs).map_err(|e| format!("{why}; {e}"))?;
            }
            return Err(why.to_string());
        }
        self.ignored.insert(ifname.to_owned(), addrs);
        Ok(true)
    }

    /// Undoes everything; what could not be undone is told, in sentences.
    pub fn undo(self) -> Vec<String> {
        self.journal.map_or(Vec::new(), Journal::undo)
    }
}

/// Where journals lie: a place that is the same for everybody who may start next, and that is empty
/// after a boot, as the interfaces are.
fn place() -> PathBuf {
    let user = nix::unistd::geteuid();
    match user.is_root() {
        true => PathBuf::from("/run/linerate/journal"),
        false => std::env::temp_dir().join(format!("linerate-journal-{user}")),
    }
}
