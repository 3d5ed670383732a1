//! The file behind a path, and nothing outside of the directory that is served.
//!
//! The kernel resolves the whole path beneath the directory (`openat2` with RESOLVE_BENEATH), so that
//! neither `..` nor a symbolic link leads out, also if links change meanwhile. Linux: fs/namei.c.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use linerate_dev::file::Opened;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::request::{Asked, Range};

/// Bytes of a decoded path at the most.
const PATH_MAX: usize = 4096;

/// A file to send.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: Opened,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    /// `Content-Type`.
    pub(super) kind: &'static str,
    /// The first byte and how many, if not all.
    pub(super) range: Option<(u64, u64)>,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// It does not exist, is no regular file, or lies outside.
    Nothing,
    /// It is a directory; its address is this.
    Elsewhere(String),
    /// It is as the client has it.
    Unchanged,
    /// It has only so many bytes.
    Range(u64),
    /// There are no descriptors, or no memory, to open it with: it may be there.
    Busy,
}

/// Opens the directory that is served.
///
/// # Errors
/// Those of `open`.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// The file that was asked for.
pub(super) fn find(root: &OwnedFd, asked: &Asked) -> Result<Found, NotFound> {
    let mut name = decode(&asked.path).ok_or(NotFound::Nothing)?;
    if name.is_empty() || name.ends_with(b"/") {
        name.extend_from_slice(b"index.html");
    }
    let file = open_beneath(root, &name).map_err(|e| why_not(&e))?;
    let meta = file.metadata().map_err(|_| NotFound::Nothing)?;
    if meta.is_dir() {
        // One slash in front: two would name another host.
        let path = asked.path.trim_start_matches('/');
        return Err(NotFound::Elsewhere(format!("/{path}/")));
    }
    if !meta.is_file() {
        return Err(NotFound::Nothing);
    }
    let modified = meta.modified().unwrap_or(UNIX_EPOCH);
    // The date that we gave, or another: clients send back what they were told.
    if asked.since.as_deref() == Some(date(modified).as_str()) {
        return Err(NotFound::Unchanged);
    }
    let size = meta.len();
    let range = match asked.range {
        None => None,
        Some(Range::From(first, last)) if first < size => {
            let last = last.map_or(size - 1, |l| l.min(size - 1));
            Some((first, last - first + 1))
        }
        Some(Range::Last(n)) if n > 0 && size > 0 => Some((size - n.min(size), n.min(size))),
        Some(_) => return Err(NotFound::Range(size)),
    };
    Ok(Found { file: Opened::new(file, &meta), size, modified, kind: kind(&name), range })
}

/// What an error of `open` says of the file.
fn why_not(e: &io::Error) -> NotFound {
    use rustix::io::Errno;
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    match Errno::from_io_error(e) {
        Some(errno) if lacks.contains(&errno) => NotFound::Busy,
        _ => NotFound::Nothing,
    }
}

/// The path without its escapes and its first slash; `None` if it can be no file of ours. Names that
/// begin with a dot are not served, but for `.well-known` (RFC 8615).
fn decode(path: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.trim_start_matches('/').bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
                digit(bytes.next()?)? << 4 | digit(bytes.next()?)?
            }
            byte => byte,
        };
        if byte == 0 || out.len() >= PATH_MAX {
            return None;
        }
        out.push(byte);
    }
    let hidden = |part: &[u8]| part.starts_with(b".") && part != b".well-known";
    let bad = out.split(|b| *b == b'/').any(hidden) || out.starts_with(b"/");
    (!bad).then_some(out)
}

/// Opens without waiting, as a pipe would, and without changing anything.
fn open_beneath(root: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
        Err(e) if [rustix::io::Errno::NOSYS, rustix::io::Errno::PERM].contains(&e) => {
            walk(root, name, flags)
        }
        opened => Ok(File::from(opened?)),
    }
}

/// The same where the kernel (before 5.6) or a filter lacks `openat2`: no symbolic links at all.
fn walk(root: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<File> {
    let outside = || io::Error::from(io::ErrorKind::NotFound);
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = root.try_clone()?;
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    let (last, parts) = parts.split_last().ok_or_else(outside)?;
    for part in parts {
        at = rustix::fs::openat(&at, *part, dir | OFlags::NOFOLLOW, Mode::empty())?;
    }
    let stat = rustix::fs::statat(&at, *last, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(outside());
    }
    Ok(File::from(rustix::fs::openat(&at, *last, flags | OFlags::NOFOLLOW, Mode::empty())?))
}

/// What a file is, by the end of its name.
fn kind(name: &[u8]) -> &'static str {
    let end = name.rsplit(|b| *b == b'.').next().unwrap_or_default().to_ascii_lowercase();
    match end.as_slice() {
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"txt" | b"md" | b"log" | b"toml" => "text/plain; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"csv" => "text/csv; charset=utf-8",
        b"js" | b"mjs" => "text/javascript; charset=utf-8",
        b"json" | b"map" => "application/json",
        b"xml" => "application/xml",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"avif" => "image/avif",
        b"ico" => "image/x-icon",
        b"woff" => "font/woff",
        b"woff2" => "font/woff2",
        b"wasm" => "application/wasm",
        b"pdf" => "application/pdf",
        b"mp4" => "video/mp4",
        b"webm" => "video/webm",
        b"mp3" => "audio/mpeg",
        b"gz" | b"tgz" => "application/gzip",
        b"zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

/// A time as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
pub(super) fn date(time: SystemTime) -> String {
    let secs = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Years that begin with March, so that the day added in leap years is the last one.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let names = [
        " Mar ", " Apr ", " May ", " Jun ", " Jul ", " Aug ", " Sep ", " Oct ", " Nov ", " Dec ",
        " Jan ", " Feb ",
    ];
    let year = year + era * 400 + u64::from(month >= 10);
    // By hand: two of them are in each answer, and `format!` takes four times as long.
    let weekdays = ["Thu, ", "Fri, ", "Sat, ", "Sun, ", "Mon, ", "Tue, ", "Wed, "];
    let mut out = String::with_capacity(29);
    let mut two = |before: &str, n: u64| {
        out.push_str(before);
        out.extend([n / 10 % 10, n % 10].map(|digit| char::from(b'0' + digit as u8)));
    };
    two(weekdays[(days % 7) as usize], day);
    two(names[month as usize], year / 100);
    two("", year);
    two(" ", rest / 3600);
    two(":", rest / 60 % 60);
    two(":", rest % 60);
    out.push_str(" GMT");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::serve::http::request::Method;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    struct Dir(PathBuf);
    impl Dir {
        fn new() -> Dir {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("linerate-www-{}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("www/sub")).expect("a directory");
            Dir(path)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn asked(path: &str, range: Option<Range>) -> Asked {
        let path = path.to_owned();
        Asked { method: Method::Get, path, keep_alive: true, range, since: None, len: 0 }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |secs| date(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
        assert_eq!(at(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    }

    #[test]
    fn nothing_outside_is_served_whatever_the_path_and_the_links() {
        let dir = Dir::new();
        let www = dir.0.join("www");
        fs::write(dir.0.join("secret"), "secret").expect("a file");
        fs::write(www.join("index.html"), "home").expect("a file");
        fs::write(www.join("sub/a b.txt"), "0123456789").expect("a file");
        fs::write(www.join(".hidden"), "no").expect("a file");
        std::os::unix::fs::symlink("../secret", www.join("out")).expect("a link");
        std::os::unix::fs::symlink("/", www.join("root")).expect("a link");
        std::os::unix::fs::symlink("sub/a b.txt", www.join("in")).expect("a link");
        let root = open_root(&www).expect("a directory");
        let find = |path: &str| super::find(&root, &asked(path, None));
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/sub/../../secret",
            "/out",
            "/root/etc/passwd",
            "/.hidden",
            "/nothing",
            "/a%00b",
            "/%zz",
            "/sub/",
        ] {
            assert_eq!(find(path).expect_err(path), NotFound::Nothing, "{path}");
        }
        for path in ["/sub", "//sub"] {
            assert_eq!(find(path).expect_err(path), NotFound::Elsewhere("/sub/".into()));
        }
        let home = find("/").expect("index.html");
        assert_eq!((home.size, home.kind), (4, "text/html; charset=utf-8"));
        assert_eq!(find("/sub/a%20b.txt").expect("a file").size, 10);
        assert_eq!(find("/in").expect("a link that stays inside").size, 10);
        let name: &[u8] = b"in";
        assert!(walk(&root, name, OFlags::RDONLY).is_err(), "no links without openat2");
        assert!(walk(&root, b"sub/a b.txt", OFlags::RDONLY).is_ok());
        assert!(walk(&root, b"../secret", OFlags::RDONLY).is_ok(), "dots are refused before");
    }

    #[test]
    fn ranges_lie_within_the_file() {
        let dir = Dir::new();
        let www = dir.0.join("www");
        fs::write(www.join("ten"), "0123456789").expect("a file");
        fs::write(www.join("empty"), "").expect("a file");
        let root = open_root(&www).expect("a directory");
        let find = |path: &str, range| super::find(&root, &asked(path, Some(range)));
        let of = |range| find("/ten", range).map(|f| f.range);
        assert_eq!(of(Range::From(2, Some(4))), Ok(Some((2, 3))));
        assert_eq!(of(Range::From(2, Some(99))), Ok(Some((2, 8))));
        assert_eq!(of(Range::From(9, None)), Ok(Some((9, 1))));
        assert_eq!(of(Range::Last(3)), Ok(Some((7, 3))));
        assert_eq!(of(Range::Last(30)), Ok(Some((0, 10))));
        assert_eq!(of(Range::From(10, None)), Err(NotFound::Range(10)));
        assert_eq!(of(Range::Last(0)), Err(NotFound::Range(10)));
        let empty = find("/empty", Range::From(0, None));
        assert_eq!(empty.expect_err("no byte"), NotFound::Range(0));
    }
}
