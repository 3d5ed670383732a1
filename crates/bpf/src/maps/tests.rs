//! Maps against models of the standard library's, and against what the kernel says of errors.

use std::collections::{BTreeMap, HashMap};

use super::*;

fn def(kind: Kind, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    let flags = if kind == Kind::LpmTrie { NO_PREALLOC } else { 0 };
    MapDef { name: "m".to_owned(), kind, key_size, value_size, max_entries, flags }
}

fn map(kind: Kind, key: u32, value: u32, entries: u32) -> Map {
    Map::new(def(kind, key, value, entries), 2).expect("a map")
}

/// A generator for tests: the same numbers each time.
pub(crate) struct Numbers(pub u64);
impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        let x = self.0 ^ self.0 >> 29;
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a program on processor 0 sees of a key.
fn seen(map: &Map, key: &[u8]) -> Option<Vec<u8>> {
    let slot = map.find(key, 0)?;
    let mut out = vec![0; map.def().value_size as usize];
    map.read((slot as u64) << map.shift, &mut out).expect("a value is where it is said to be");
    Some(out)
}

/// Goal: a hash does what a table of the standard library does, errors and all.
#[test]
fn a_hash_is_a_table() {
    for (key_size, entries) in [(4u32, 64u32), (13, 40), (1, 7), (64, 1)] {
        let map = map(Kind::Hash, key_size, 12, entries);
        let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        let mut numbers = Numbers(u64::from(key_size));
        for step in 0..6000u32 {
            let mut key = vec![0; key_size as usize];
            key[0] = numbers.below(90) as u8;
            let mut value = step.to_le_bytes().to_vec();
            value.resize(12, 7);
            let here = model.contains_key(&key);
            match numbers.below(5) {
                0 => {
                    let want = if here { Ok(()) } else { errno(libc::ENOENT) };
                    assert_eq!(map.remove(&key), want);
                    model.remove(&key);
                }
                1..=3 => {
                    let flags = numbers.below(4);
                    let full = model.len() == entries as usize;
                    let want = match flags {
                        3 => errno(libc::EINVAL),
                        NOEXIST if here => errno(libc::EEXIST),
                        EXIST if !here => errno(libc::ENOENT),
                        _ if !here && full => errno(libc::E2BIG),
                        _ => Ok(()),
                    };
                    assert_eq!(map.update(&key, &value, flags, 0), want, "step {step}");
                    if want.is_ok() {
                        model.insert(key.clone(), value);
                    }
                }
                _ => {}
            }
            assert_eq!(seen(&map, &key), model.get(&key).cloned());
            assert_eq!(map.len(), model.len() as u64);
        }
        let all: HashMap<Vec<u8>, Vec<u8>> =
            map.entries(1000).into_iter().map(|(k, mut v)| (k, v.remove(0))).collect();
        assert_eq!(all, model);
    }
}

/// Goal: the longest of all prefixes is found, for lengths that do and do not end at bytes and words.
#[test]
fn an_lpm_trie_finds_the_longest_prefix() {
    for key_size in [5u32, 8, 12, 20] {
        let bits = u64::from(key_size - 4) * 8;
        let map = map(Kind::LpmTrie, key_size, 8, 60);
        // Prefixes, as text of bits, and their values.
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut numbers = Numbers(u64::from(key_size) + 1);
        let text = |key: &[u8]| {
            let len = u32::from_le_bytes(*key.first_chunk().expect("a length")) as usize;
            let mut all: String = key[4..].iter().map(|b| format!("{b:08b}")).collect();
            all.truncate(len);
            all
        };
        for step in 0..8000u32 {
            // Few distinct bits, so that prefixes are related.
            let mut key = (numbers.below(bits + 2) as u32).to_le_bytes().to_vec();
            key.resize(key_size as usize, 0);
            key[4] = [0, 0x80, 0xc0, 0xff][numbers.below(4) as usize];
            let last = key_size as usize - 1;
            key[last] |= numbers.below(2) as u8;
            let value = u64::from(step).to_le_bytes().to_vec();
            let long = u64::from(key[0]) > bits;
            let name = text(&key);
            let here = model.contains_key(&name);
            match numbers.below(4) {
                0 => {
                    let want = match () {
                        () if long => errno(libc::EINVAL),
                        () if !here => errno(libc::ENOENT),
                        () => Ok(()),
                    };
                    assert_eq!(map.remove(&key), want, "step {step}");
                    if !long {
                        model.remove(&name);
                    }
                }
                1 | 2 => {
                    let flags = numbers.below(3);
                    let want = match flags {
                        _ if long => errno(libc::EINVAL),
                        NOEXIST if here => errno(libc::EEXIST),
                        EXIST if !here => errno(libc::ENOENT),
                        _ if !here && model.len() == 60 => errno(libc::ENOSPC),
                        _ => Ok(()),
                    };
                    assert_eq!(map.update(&key, &value, flags, 0), want, "step {step}");
                    if want.is_ok() {
                        model.insert(name.clone(), value);
                    }
                }
                _ => {}
            }
            let want = model.iter().filter(|(p, _)| name.starts_with(*p) && !long);
            let want = want.max_by_key(|(p, _)| p.len()).map(|(_, v)| v.clone());
            assert_eq!(seen(&map, &key), want, "step {step}: {name}");
            assert_eq!(map.len(), model.len() as u64);
        }
        let mut all: Vec<String> = map.entries(1000).iter().map(|(k, _)| text(k)).collect();
        all.sort();
        assert_eq!(all, model.keys().cloned().collect::<Vec<_>>());
    }
}

/// Goal: a full LRU map makes room, and what is used stays.
#[test]
fn an_lru_map_forgets_what_is_not_used() {
    let map = map(Kind::LruHash, 4, 4, 100);
    let key = |n: u32| n.to_le_bytes();
    for n in 0..100 {
        map.update(&key(n), &key(n), ANY, 0).expect("room");
    }
    assert_eq!(map.len(), 100);
    for n in 100..10_000 {
        assert!(seen(&map, &key(3)).is_some(), "it was used a moment ago, when {n} came");
        map.update(&key(n), &key(n), NOEXIST, 0).expect("room is made");
        assert_eq!(seen(&map, &key(n)).as_deref(), Some(&key(n)[..]));
        assert_eq!(map.len(), 100);
    }
    map.update(&key(3), &key(9), EXIST, 0).expect("replaced");
    assert_eq!(seen(&map, &key(3)).as_deref(), Some(&key(9)[..]));
    // Some of the same hash as new ones are not lost on the way: what is counted is there.
    assert_eq!(map.entries(1000).len() as u64, map.len());
}

#[test]
fn arrays_have_all_their_entries() {
    let map = map(Kind::Array, 4, 6, 3);
    assert_eq!(seen(&map, &[2, 0, 0, 0]), Some(vec![0; 6]));
    assert_eq!(seen(&map, &[3, 0, 0, 0]), None);
    assert_eq!(map.update(&[1, 0, 0, 0], &[5; 6], ANY, 0), Ok(()));
    assert_eq!(map.update(&[1, 0, 0, 0], &[5; 6], NOEXIST, 0), errno(libc::EEXIST));
    assert_eq!(map.update(&[3, 0, 0, 0], &[5; 6], ANY, 0), errno(libc::E2BIG));
    assert_eq!(map.update(&[1, 0, 0, 0], &[5; 6], 3, 0), errno(libc::EINVAL));
    assert_eq!(map.remove(&[1, 0, 0, 0]), errno(libc::EINVAL));
    assert_eq!(map.get(&[1, 0, 0, 0]), Some(vec![vec![5; 6]]));
    // Beyond a value is nothing, although memory of the next one follows.
    assert_eq!(map.load(1 << map.shift, 4), Some(0x0505_0505));
    assert_eq!(map.load((1 << map.shift) + 3, 4), None);
    assert_eq!(map.load((1 << map.shift) - 8, 4), None);
    assert_eq!(map.load(3 << map.shift, 4), None);
}

#[test]
fn percpu_maps_have_a_value_for_each() {
    for kind in [Kind::PercpuArray, Kind::PercpuHash, Kind::LruPercpuHash] {
        let map = map(kind, 4, 8, 2);
        let key = [1, 0, 0, 0];
        map.update(&key, &[1; 8], ANY, 1).expect("room");
        assert_eq!(map.get(&key), Some(vec![vec![0; 8], vec![1; 8]]), "{kind}");
        map.update(&key, &[2; 8], EXIST, 0).expect("there");
        assert_eq!(map.get(&key), Some(vec![vec![2; 8], vec![1; 8]]), "{kind}");
        map.set(&key, &[&[7; 8]], ANY).expect("one for all");
        assert_eq!(map.get(&key), Some(vec![vec![7; 8], vec![7; 8]]));
        map.set(&key, &[&[8; 8], &[9; 8]], ANY).expect("one for each");
        assert_eq!(map.get(&key), Some(vec![vec![8; 8], vec![9; 8]]));
        assert_eq!(map.set(&key, &[&[0; 8], &[0; 8], &[0; 8]], ANY), errno(libc::EINVAL));
        if kind != Kind::PercpuArray {
            // What is made anew by one is empty for the other, whatever lay there.
            map.remove(&key).expect("there");
            map.update(&key, &[3; 8], NOEXIST, 1).expect("room");
            assert_eq!(map.get(&key), Some(vec![vec![0; 8], vec![3; 8]]));
        }
    }
}

#[test]
fn maps_of_devices_have_what_is_set() {
    let map = map(Kind::Devmap, 4, 4, 8);
    assert_eq!((map.find(&[1, 0, 0, 0], 0), map.len()), (None, 0));
    map.set(&[1, 0, 0, 0], &[&[7, 0, 0, 0]], ANY).expect("set");
    assert_eq!(map.find(&[1, 0, 0, 0], 0).map(|slot| map.number(slot)), Some(7));
    assert_eq!((map.len(), map.entries(9).len()), (1, 1));
    map.remove(&[1, 0, 0, 0]).expect("taken out");
    assert_eq!((map.find(&[1, 0, 0, 0], 0), map.len()), (None, 0));
}

#[test]
fn rings_are_bounded_in_bytes() {
    let map = map(Kind::Ringbuf, 0, 0, 4096);
    let ring = map.ring().expect("a ring");
    let record = |n: u8| Record { cpu: 1, data: vec![n; 1016] };
    for n in 0..3 {
        assert!(ring.reserve(1016));
        ring.submit(record(n));
    }
    assert!(!ring.reserve(1016), "all but one byte may be taken");
    assert_eq!((ring.query(0), ring.query(1), ring.query(3), map.lost()), (3072, 4096, 3072, 1));
    assert_eq!(map.drain(2), [record(0), record(1)]);
    assert_eq!((ring.query(0), ring.query(2), map.len()), (1024, 2048, 1));
    assert!(ring.reserve(1));
    ring.release(1);
    assert_eq!((map.drain(9), ring.query(0)), (vec![record(2)], 0));
}

/// Goal: what the kernel refuses is refused, and told.
#[test]
fn definitions_are_checked() {
    let err = |kind, key, value, entries, flags| {
        let def = MapDef { flags, ..def(kind, key, value, entries) };
        Map::new(def, 2).expect_err("refused").to_string()
    };
    use Kind::*;
    assert_eq!(err(Array, 8, 4, 1, 0), "key_size is 8; of a array it has to be 4");
    assert!(err(Hash, 4, 0, 1, 0).starts_with("value_size is 0"));
    assert!(err(Hash, 513, 4, 1, 0).contains("1 to 512"));
    assert!(err(Hash, 4, 4, 0, 0).contains("max_entries is 0"));
    assert!(err(LpmTrie, 8, 4, 1, 0).contains("BPF_F_NO_PREALLOC"));
    assert!(err(LpmTrie, 4, 4, 1, 1).contains("5 to 260"));
    assert!(err(Ringbuf, 0, 0, 1000, 0).contains("power of two"));
    assert!(err(Array, 4, 4, 1, 1 << 20).contains("map_flags is 1048576"));
    assert!(err(PercpuArray, 4, 40_000, 1, 0).contains("32 KiB"));
    assert!(err(Hash, 4, 1024, 10_000_000, 0).contains("256 MiB"), "bounded memory");
    assert!(err(Array, 4, 1 << 20, u32::MAX, 0).contains("lower max_entries"));
    assert!(err(LpmTrie, 8, 1 << 20, u32::MAX, 1).contains("lower max_entries"));
    let err = Kind::from_number(13).expect_err("not here").to_string();
    assert!(err.starts_with("maps of type 13 (hash_of_maps) are not provided; there are hash"));
    assert!(Kind::from_number(99).expect_err("not anywhere").to_string().contains("unknown"));
}

/// Goal: with several writers and readers no entry is lost or made up, and nothing is shared by two.
#[test]
fn a_hash_is_shared_by_shards() {
    for kind in [Kind::Hash, Kind::LruHash] {
        let map = map(kind, 4, 8, 256);
        let step = |numbers: &mut Numbers| {
            let key = (numbers.below(300) as u32).to_le_bytes();
            // A value says its key, twice.
            let value = [key, key].concat();
            match numbers.below(4) {
                0 => _ = map.remove(&key),
                1 | 2 => _ = map.update(&key, &value, ANY, 0),
                _ => {}
            }
            // A slot may be taken by another key while it is read, but only whole.
            if let Some(seen) = seen(&map, &key) {
                assert_eq!(seen[..4], seen[4..], "an 8-byte value is read whole");
            }
        };
        std::thread::scope(|s| {
            for n in 0..4 {
                let step = &step;
                s.spawn(move || {
                    let mut numbers = Numbers(n);
                    (0..20_000).for_each(|_| step(&mut numbers));
                });
            }
        });
        let entries = map.entries(1000);
        assert_eq!(entries.len() as u64, map.len());
        assert!(map.len() <= 256);
        for (key, values) in entries {
            assert_eq!(values, [[key.clone(), key.clone()].concat()]);
            assert_eq!(seen(&map, &key), Some([key.clone(), key].concat()));
        }
    }
}

#[test]
fn a_trie_is_shared_by_shards() {
    let map = map(Kind::LpmTrie, 8, 8, 200);
    let default = [[0; 4], [0; 4]].concat();
    map.update(&default, &[1; 8], ANY, 0).expect("room");
    std::thread::scope(|s| {
        for n in 0..3 {
            let map = &map;
            s.spawn(move || {
                let mut numbers = Numbers(n);
                for _ in 0..20_000 {
                    let len = 1 + numbers.below(32) as u32;
                    let key = [len.to_le_bytes(), (numbers.next() as u32).to_le_bytes()].concat();
                    match numbers.below(3) {
                        0 => _ = map.remove(&key),
                        1 => _ = map.update(&key, &[2; 8], ANY, 0),
                        _ => {
                            let found = seen(map, &[[32, 0, 0, 0], [1, 2, 3, 4]].concat());
                            assert!(found == Some(vec![1; 8]) || found == Some(vec![2; 8]));
                        }
                    }
                }
            });
        }
    });
    assert_eq!(map.entries(1000).len() as u64, map.len());
}
