//! Goal: what went into a record comes out of it, however it is cut, and whatever is done to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Temp(std::env::temp_dir().join(format!("lr-record-{}-{n}.lrec", std::process::id())))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn question(list: bool, name: &str) -> Question {
    Question { list, name: name.to_owned() }
}

/// The host at second `n`: counters that grow, a file that comes and goes, a right that is missing,
/// a message that gets longer; the full tier every fifth second.
fn host(n: u64) -> (Moment, Answers) {
    let full = n.is_multiple_of(5);
    let mut answers = Answers::new();
    let stat = format!("cpu0 {} 0 {} {}\nintr {}\n", 100 + n, 7 * n, 99 * n, 1000 + 13 * n);
    answers.insert(question(false, "proc/stat"), Answer::Bytes(stat.into_bytes()));
    let softnet =
        format!("{:08x} 00000000 {:08x}\n", 0xffff_fff0_u32.wrapping_add(n as u32), n / 3);
    let name = question(false, "proc/net/softnet_stat");
    answers.insert(name, Answer::Bytes(softnet.into_bytes()));
    let cmdline = Answer::Bytes(b"quiet \xff".to_vec());
    answers.insert(question(false, "proc/cmdline"), cmdline);
    if n.is_multiple_of(2) {
        let refused = io::Error::new(io::ErrorKind::PermissionDenied, "no right");
        let refused = Answer::Failed((&refused).into());
        answers.insert(question(false, "sys/kernel/tracing"), refused);
        let unsupported = io::Error::from_raw_os_error(95);
        let unsupported = Answer::Failed((&unsupported).into());
        answers.insert(question(false, "netlink/ethtool/RINGS_GET"), unsupported);
    }
    if full {
        let message: Vec<u8> = (0..n * 40).map(|i| (i * i) as u8).collect();
        answers.insert(question(false, "netlink/route/RTM_GETLINK"), Answer::Bytes(message));
        let names = vec!["eth0".to_owned(), format!("veth{n}")];
        answers.insert(question(true, "sys/class/net"), Answer::Names(names));
    }
    let ns = 1_000_000_000;
    let wall_ns = 1_700_000_000 * ns + n * ns;
    (Moment { wall_ns, monotonic_ns: n * ns, full, anew: false }, answers)
}

fn write(path: &Path, seconds: std::ops::Range<u64>) {
    let mut writer = Writer::open(path).expect("a file that can be written");
    for n in seconds {
        let (moment, answers) = host(n);
        writer.write(moment, &answers).expect("room on the disk");
    }
    assert_eq!(writer.bytes(), fs::metadata(path).expect("the file").len());
}

/// Asserts that the moments are those of `host(0)`, `host(1)`, ...; returns how many.
fn check(path: &Path) -> (u64, End) {
    let mut reader = Reader::open(path).expect("a record");
    let mut n = 0;
    while let Some(moment) = reader.advance().expect("a file that can be read") {
        let (expected, answers) = host(n);
        assert_eq!(Moment { anew: false, ..moment }, expected);
        assert!(moment.anew || n > 0, "the first moment stands alone");
        let mut source = reader.source();
        for (question, answer) in &answers {
            let found = match question.list {
                false => source.read(&question.name).map(Answer::Bytes),
                true => source.list(&question.name).map(Answer::Names),
            };
            let found = found.unwrap_or_else(|e| Answer::Failed((&e).into()));
            assert_eq!(found, *answer, "{question:?} at {n}");
        }
        if !moment.full {
            let stale = source.read("netlink/route/RTM_GETLINK").expect_err("it was not read");
            assert_eq!(stale.kind(), io::ErrorKind::NotFound);
        }
        n += 1;
    }
    (n, reader.end().expect("it has ended").clone())
}

#[test]
fn what_went_in_comes_out() {
    let temp = Temp::new();
    write(&temp.0, 0..50);
    assert_eq!(check(&temp.0), (50, End::Whole));
}

#[test]
fn moments_that_stand_alone_come_again_and_again() {
    let temp = Temp::new();
    let n = u64::from(KEY_EVERY) + 20;
    write(&temp.0, 0..n);
    assert_eq!(check(&temp.0), (n, End::Whole));
}

#[test]
fn a_record_is_continued_and_its_torn_end_removed() {
    let temp = Temp::new();
    write(&temp.0, 0..7);
    let whole = fs::read(&temp.0).expect("the file");
    write(&temp.0, 7..9);
    assert_eq!(check(&temp.0), (9, End::Whole));
    // The tenth moment was half written when the host went down.
    let mut torn = fs::read(&temp.0).expect("the file");
    torn.extend_from_slice(&whole[8..40]);
    fs::write(&temp.0, torn).expect("the file");
    assert!(matches!(check(&temp.0), (9, End::Cut { .. })));
    write(&temp.0, 9..12);
    assert_eq!(check(&temp.0), (12, End::Whole));
}

#[test]
fn what_is_no_record_is_not_touched() {
    let temp = Temp::new();
    fs::write(&temp.0, "dear diary").expect("the file");
    let refused = |e: Option<io::Error>| e.expect("refused").kind() == io::ErrorKind::InvalidData;
    assert!(refused(Writer::open(&temp.0).err()) && refused(Reader::open(&temp.0).err()));
    assert_eq!(fs::read(&temp.0).expect("the file"), b"dear diary");
}

#[test]
fn cut_anywhere_all_that_lies_before_is_read() {
    let temp = Temp::new();
    write(&temp.0, 0..12);
    let whole = fs::read(&temp.0).expect("the file");
    let mut last = 0;
    for cut in MAGIC.len()..=whole.len() {
        fs::write(&temp.0, &whole[..cut]).expect("the file");
        let (moments, end) = check(&temp.0);
        assert!(moments == last || moments == last + 1, "{moments} after {last} at {cut}");
        last = moments;
        if cut < whole.len() && end != End::Whole {
            assert!(matches!(end, End::Cut { at, .. } if at <= cut as u64));
        }
    }
    assert_eq!(last, 12);
}

#[test]
fn a_flipped_bit_ends_it_there() {
    let temp = Temp::new();
    write(&temp.0, 0..6);
    let whole = fs::read(&temp.0).expect("the file");
    for at in MAGIC.len()..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&temp.0, &bad).expect("the file");
        let (moments, end) = check(&temp.0);
        assert!(moments < 6 && matches!(end, End::Cut { .. }), "{moments} {end:?} at {at}");
    }
}

/// The checksum keeps such payloads out, unless somebody made them on purpose.
#[test]
fn a_payload_made_to_harm_is_refused() {
    let mut encoder = super::write::Encoder::default();
    let blocks: Vec<_> = (0..6).map(host).map(|(m, a)| encoder.encode(m, &a)).collect();
    for (turn, (kind, payload)) in blocks.iter().enumerate() {
        for at in 0..payload.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut decoder = read::Decoder::default();
                for (kind, payload) in &blocks[..turn] {
                    assert!(decoder.decode(*kind, payload).is_some());
                }
                let mut bad = payload.clone();
                bad[at] = byte;
                let _ = decoder.decode(*kind, &bad);
                let _ = decoder.decode(*kind, &bad[..at]);
            }
        }
    }
}

#[test]
fn an_idle_host_costs_little() {
    // Twenty files of which nothing moves but the time.
    let mut writer_state = super::write::Encoder::default();
    let mut sizes = Vec::new();
    for n in 0..100u64 {
        let mut answers = Answers::new();
        for i in 0..20 {
            let name = question(false, &format!("sys/class/net/eth0/file{i}"));
            answers.insert(name, Answer::Bytes(vec![b'0' + i; 100]));
        }
        let uptime = format!("{n}.50 {n}.00\n").into_bytes();
        answers.insert(question(false, "proc/uptime"), Answer::Bytes(uptime));
        let ns = n * 1_000_000_000 + n * 977;
        let moment = Moment { wall_ns: ns, monotonic_ns: ns, ..Moment::default() };
        sizes.push(writer_state.encode(moment, &answers).1.len());
    }
    assert!(sizes[2..].iter().all(|size| *size < 32), "{sizes:?}");
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
}
