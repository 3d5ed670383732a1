//! The hash against the published verification suite.

use std::net::IpAddr;

use linerate_arch::toeplitz::{Toeplitz, VERIFICATION_KEY};

#[test]
fn the_verification_suite_agrees() {
    let hash = Toeplitz::new(&VERIFICATION_KEY);
    let rows = include_str!("data/toeplitz_rss.tsv").lines().filter(|line| !line.starts_with('#'));
    let mut vectors = 0;
    for row in rows.skip(1) {
        let [src, sport, dst, dport, l3, l3l4] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("a row has six columns: {row}");
        };
        let (sport, dport) = (sport.parse().unwrap(), dport.parse().unwrap());
        let (by_addrs, by_flow) = match (src.parse().unwrap(), dst.parse().unwrap()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                (hash.hash_v4_l3(src, dst), hash.hash_v4(src, dst, sport, dport))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                (hash.hash_v6_l3(src, dst), hash.hash_v6(src, dst, sport, dport))
            }
            _ => panic!("both addresses of a row are of one version: {row}"),
        };
        assert_eq!(by_addrs, u32::from_str_radix(l3, 16).unwrap(), "addresses of {row}");
        assert_eq!(by_flow, u32::from_str_radix(l3l4, 16).unwrap(), "flow of {row}");
        vectors += 1;
    }
    assert_eq!(vectors, 8);
}
