use super::*;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that goes when the test ends.
struct Temp(PathBuf);
impl Temp {
    fn new(bytes: &[u8]) -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("linerate-file-{}-{n}", std::process::id()));
        fs::write(&path, bytes).expect("a file");
        Temp(path)
    }
    /// Opened as if its last change were long ago.
    fn open(&self) -> Opened {
        let file = File::open(&self.0).expect("it opens");
        let meta = file.metadata().expect("it is there");
        Opened { settled: true, ..Opened::new(file, &meta) }
    }
    fn write_at(&self, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.0).expect("it opens");
        file.write_all_at(bytes, at).expect("it is written");
        // Times of files are coarse: a change is to be seen here however soon it comes.
        let later = SystemTime::now() + Duration::from_secs(5);
        file.set_modified(later).expect("it is ours");
    }
}
impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}
fn whole(cache: &FileCache, file: &Opened) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let part = cache.read(file, out.len() as u64).expect("it can be read");
        if part.is_empty() {
            return out;
        }
        out.extend_from_slice(part.bytes());
    }
}

#[test]
fn a_block_is_read_once_for_all() {
    let bytes = pattern(3 * BLOCK + 17);
    let temp = Temp::new(&bytes);
    let cache = FileCache::new(1 << 20);
    let (one, other) = (temp.open(), temp.open());
    assert!(whole(&cache, &one) == bytes && whole(&cache, &other) == bytes);
    let at = |file, at| cache.read(file, at).expect("it can be read").bytes().as_ptr();
    assert_eq!(at(&one, 5), at(&other, 5));
    assert_eq!(cache.held(), bytes.len() + 4 * OVERHEAD);
    // A part begins where it was asked for, and ends with its block.
    let part = cache.read(&one, BLOCK as u64 + 100).expect("it can be read");
    assert!(part.bytes() == &bytes[BLOCK + 100..2 * BLOCK]);
    for beyond in [bytes.len() as u64, bytes.len() as u64 + 1, 1 << 40] {
        assert!(cache.read(&one, beyond).expect("no error").is_empty(), "{beyond}");
    }
    assert_eq!(whole(&cache, &Temp::new(b"").open()), b"");
}

/// What was given out stays as it was. A file that was cut short ends early, and no byte stands for what is
/// missing; neither is kept.
#[test]
fn a_file_that_is_cut_short_ends_early() {
    let bytes = pattern(2 * BLOCK + 1000);
    let temp = Temp::new(&bytes);
    let cache = FileCache::new(1 << 20);
    let file = temp.open();
    let first = cache.read(&file, 0).expect("it can be read");
    let cut = File::options().write(true).open(&temp.0).expect("it opens");
    cut.set_len(BLOCK as u64 + 300).expect("it is ours");
    assert!(cache.read(&file, BLOCK as u64).expect("no error").bytes() == &bytes[BLOCK..][..300]);
    assert!(cache.read(&file, BLOCK as u64 + 300).expect("no error").is_empty());
    assert!(cache.read(&file, 2 * BLOCK as u64).expect("no error").is_empty());
    assert!(first.bytes() == &bytes[..BLOCK]);
    assert_eq!(cache.held(), BLOCK + OVERHEAD, "only what was read before");
    let anew = temp.open();
    assert!(whole(&cache, &anew) == bytes[..BLOCK + 300]);
}

/// Who has it still under way sends what was read; who opens it now gets what it has now.
#[test]
fn a_file_that_changed_is_another() {
    let bytes = pattern(BLOCK + 10);
    let temp = Temp::new(&bytes);
    let cache = FileCache::new(1 << 20);
    let before = temp.open();
    let under_way = cache.read(&before, 0).expect("it can be read");
    temp.write_at(100, b"changed");
    let after = temp.open();
    assert_eq!(&cache.read(&after, 100).expect("it can be read").bytes()[..7], b"changed");
    assert!(under_way.bytes() == &bytes[..BLOCK]);
    // What the first opening reads only now is of the new version: it is not kept as one of the old.
    temp.write_at(BLOCK as u64, b"new");
    let held = cache.held();
    assert_eq!(&cache.read(&before, BLOCK as u64).expect("it can be read").bytes()[..3], b"new");
    assert_eq!(cache.held(), held);
}

/// Within a tick a second change leaves no trace in the times: such a file is not kept.
#[test]
fn what_changed_a_moment_ago_is_not_kept() {
    let temp = Temp::new(b"young");
    let version = temp.open().version;
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(version.ctime.0 as u64);
    for (age, settled) in [(0, false), (2, false), (3, true), (1000, true)] {
        assert_eq!(version.settled(changed + Duration::from_secs(age)), settled, "{age} s");
    }
    assert!(!version.settled(changed - Duration::from_secs(10)), "a clock that was set back");
    let cache = FileCache::new(1 << 20);
    let file = Opened { settled: false, ..temp.open() };
    assert_eq!((whole(&cache, &file), cache.held()), (b"young".to_vec(), 0));
}

/// The bound holds; what is asked for again and again stays, and a file that would push all others out is not taken.
#[test]
fn what_is_kept_is_bounded() {
    let most = 8 * (BLOCK + OVERHEAD);
    let cache = FileCache::new(most);
    let hot = Temp::new(&pattern(BLOCK));
    let hot = hot.open();
    let place = cache.read(&hot, 0).expect("it can be read").bytes().as_ptr();
    for _ in 0..40 {
        assert_eq!(cache.read(&hot, 0).expect("it can be read").bytes().as_ptr(), place);
        let cold = Temp::new(&pattern(BLOCK));
        assert_eq!(whole(&cache, &cold.open()).len(), BLOCK);
        assert!(cache.held() <= most);
    }
    let large = Temp::new(&pattern(2 * BLOCK + BLOCK / 2));
    let large = large.open();
    let held = cache.held();
    assert!(!cache.takes(&large) && whole(&cache, &large).len() == 2 * BLOCK + BLOCK / 2);
    assert_eq!(cache.held(), held);
}
