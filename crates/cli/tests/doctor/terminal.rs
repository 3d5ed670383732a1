//! `top` on a terminal that tmux makes.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Temp, exists, record, skip, text};

/// A terminal with a program on it; it goes when this goes.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn tmux(&self, args: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.args(["-f", "/dev/null", "-S", &self.socket]).args(args);
        tmux.env("LC_ALL", "C.UTF-8").output().expect("tmux starts")
    }

    fn new(temp: &Temp, program: &str) -> Terminal {
        // A server that was told to end may still hold its socket.
        static NTH: AtomicU32 = AtomicU32::new(0);
        let nth = NTH.fetch_add(1, Ordering::Relaxed);
        let terminal = Terminal { socket: temp.path(&format!("tmux{nth}")) };
        let shell = format!("{program}; echo ended with $?; sleep 1000");
        let begun = terminal.tmux(&[
            "-u",
            "new-session",
            "-d",
            "-x",
            "130",
            "-y",
            "45",
            "sh",
            "-c",
            &shell,
        ]);
        assert!(begun.status.success(), "{begun:?}");
        terminal
    }

    fn press(&self, keys: &[&str]) {
        assert!(self.tmux(&[&["send-keys"], keys].concat()).status.success());
    }

    /// Waits until all of that is on the screen, however long the machine takes.
    fn shows(&self, parts: &[&str]) -> String {
        let mut screen = String::new();
        for _ in 0..1200 {
            screen = text(&self.tmux(&["capture-pane", "-p"]).stdout);
            if parts.iter().all(|part| screen.contains(part)) {
                return screen;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{parts:?} never came:\n{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_draws_drills_down_and_leaves_the_terminal_as_it_was() {
    if exists("tmux").is_none() {
        return skip("top_draws_drills_down_and_leaves_the_terminal_as_it_was", "there is no tmux");
    }
    let temp = Temp::new();
    let file = temp.path("host.lrec");
    record(&file, "600ms");
    let linerate = env!("CARGO_BIN_EXE_linerate");
    for source in [format!("--from {file}"), String::new()] {
        let terminal = Terminal::new(&temp, &format!("{linerate} top --every 100ms {source}"));
        terminal.shows(&["[1 path]", "receive", "SockQueue", "transmit", "Xmit", "cpu0"]);
        terminal.press(&["2"]);
        terminal.shows(&["[2 devices]", "lo"]);
        terminal.press(&["Enter"]);
        terminal.shows(&["mtu"]);
        terminal.press(&["Escape"]);
        terminal.shows(&["rx lost/s"]);
        terminal.press(&["3"]);
        terminal.shows(&["[3 processors]", "softirq", "squeeze/s"]);
        terminal.press(&["Enter"]);
        terminal.shows(&["idle", "steal"]);
        terminal.press(&["4"]);
        terminal.shows(&["[4 sockets]", "whose"]);
        terminal.press(&["5"]);
        terminal.shows(&["[5 findings]"]);
        terminal.press(&["1"]);
        terminal.press(&["d"]);
        terminal.shows(&["alone"]);
        terminal.press(&["D", "Space"]);
        terminal.shows(&["stopped", "[1 path]"]);
        terminal.press(&["q"]);
        // The shell goes on below what was there before.
        let left = terminal.shows(&["ended with 0"]);
        assert!(!left.contains("[1 path]"), "{left}");
    }
}
