//! Where it is measured: a network namespace of our own, and the one that we came from.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;

use linerate_dev::netdev::{Netdev, PeerNetns};
use linerate_host::netns::Namespace;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::bench::inside::files_limit;

/// The namespace that this thread is in from now on, and the host's. Everything in it ends with us.
pub struct Place {
    host: Rc<Namespace>,
    sockets: Vec<TcpStream>,
}

impl Place {
    /// Enters a new network namespace with loopback and a veth pair.
    ///
    /// # Errors
    /// Without root.
    pub fn new(sockets: u32) -> io::Result<Place> {
        let none = None::<&str>;
        let root = |e| io::Error::other(format!("no network namespace ({e}): run it as root"));
        let host = Namespace::enter(Path::new("/proc/thread-self/ns/net")).map_err(root)?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .map_err(|e| root(io::Error::from(e)))?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // What /sys/class/net shows is the namespace in which it was mounted.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        files_limit()?;
        let mut netdev = Netdev::open().map_err(io::Error::other)?;
        netdev.add_veth("veth0", "veth1", PeerNetns::Same).map_err(io::Error::other)?;
        for dev in ["lo", "veth0", "veth1"] {
            let link = netdev.link(dev).map_err(io::Error::other)?;
            netdev.set_up(link.index, true).map_err(io::Error::other)?;
        }
        Ok(Place { host: Rc::new(host), sockets: Vec::with_capacity(sockets as usize) })
    }

    /// The namespace that we came from.
    pub fn host(&self) -> Rc<Namespace> {
        self.host.clone()
    }

    /// Opens that many sockets, two of each connection, over loopback. One in twenty connections has
    /// data that nobody reads: those are the ones of which more is asked.
    ///
    /// # Errors
    /// If we may not have that many files.
    pub fn open_sockets(&mut self, sockets: u32) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let to = listener.local_addr()?;
        for n in 0..sockets / 2 {
            let mut here = TcpStream::connect(to)?;
            if n % 20 == 0 {
                here.write_all(&[0; 100])?;
            }
            self.sockets.push(here);
            self.sockets.push(listener.accept()?.0);
        }
        Ok(())
    }

    /// Closes them.
    pub fn close_sockets(&mut self) {
        self.sockets.clear();
    }
}
