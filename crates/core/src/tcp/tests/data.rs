use super::*;
use crate::table::count::Counter as C;

#[test]
fn a_megabyte_goes_both_ways() {
    let mut p = Pair::new(2, GOOD);
    let ends = p.connected();
    exchange(&mut p, ends, [1 << 20, 1 << 20], 100 * SEC);
    assert_eq!(p.count(A, C::TcpRetransSegs) + p.count(B, C::TcpRetransSegs), 0);
}
