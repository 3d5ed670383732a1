//! The helpers: what the kernel does for programs, done here.
//!
//! Linux: kernel/bpf/helpers.c, net/core/filter.c, kernel/bpf/ringbuf.c, kernel/trace/bpf_trace.c

use super::fault::Bad;
use super::mem::Making;
use super::op::*;
use super::run::{Again, Run};
use super::{Fib, Redirect, print};
use crate::helpers::Helper;
use crate::maps::{Errno, Kind, Map, Record};
use crate::prog::Program;

/// What a helper came to.
pub(super) enum Called {
    /// It returned this.
    Value(u64),
    /// The program goes on as another one.
    Tail(usize),
    /// A function is called so many times.
    Loop(Again),
}

/// What surrounds a run.
pub(super) struct Host<'a, 'h> {
    pub program: &'a Program,
    pub cpu: u32,
    /// Nanoseconds of a clock that only goes forwards.
    pub now: u64,
    pub random: &'a mut u64,
    pub redirect: &'a mut Option<Redirect>,
    pub fib: Option<&'a mut (dyn Fib + 'h)>,
    /// Tail calls that the program may still make.
    pub tails: u32,
}

/// A helper's error: what, and the value that it is about.
type Error = (Bad, u64);

const XDP_ABORTED: u64 = 0;
const XDP_REDIRECT: u64 = 4;
/// `BPF_MAX_LOOPS`.
const LOOPS_MAX: u64 = 1 << 23;
/// Records of ring buffers that one run may have in the making.
const RECORDS_MAX: usize = 64;
/// A copy of a helper's (`bpf_xdp_load_bytes`, perf samples) at the most.
const COPY_MAX: u64 = 64 << 10;
/// `BPF_F_INDEX_MASK`, which also means the own processor (`BPF_F_CURRENT_CPU`).
const INDEX_MASK: u64 = 0xffff_ffff;

fn negative(number: i32) -> u64 {
    -i64::from(number) as u64
}
fn result(done: Result<(), Errno>) -> u64 {
    done.map_or_else(|err| negative(err.0), |()| 0)
}

impl<'a> Run<'a, '_, '_> {
    pub(super) fn call(&mut self, helper: u8, r: [u64; 5]) -> Result<Called, Error> {
        let helper = Helper::from_number(i32::from(helper)).expect("checked");
        let value = match helper {
            Helper::MapLookupElem => self.map_lookup_elem(r[0], r[1], self.host.cpu)?,
            Helper::MapLookupPercpuElem => self.map_lookup_percpu_elem(r)?,
            Helper::MapUpdateElem => self.map_update_elem(r)?,
            Helper::MapDeleteElem => {
                let (_, map) = self.map(r[0])?;
                let size = map.def().key_size as usize;
                self.with_bytes(r[1], size, |key| result(map.remove(key)))?
            }
            Helper::KtimeGetNs | Helper::KtimeGetBootNs | Helper::KtimeGetCoarseNs => self.host.now,
            // Of a kernel with HZ=1000.
            Helper::Jiffies64 => self.host.now / 1_000_000,
            Helper::GetPrandomU32 => self.random(),
            Helper::GetSmpProcessorId => u64::from(self.host.cpu),
            Helper::GetNumaNodeId => 0,
            Helper::TracePrintk => self.trace_printk(r)?,
            Helper::TailCall => return self.tail_call(r),
            Helper::Loop => return self.bpf_loop(r),
            Helper::Redirect => self.redirect(r[0], r[1]),
            Helper::RedirectMap => self.redirect_map(r)?,
            Helper::PerfEventOutput => self.perf_event_output(r)?,
            Helper::RingbufOutput => self.ringbuf_output(r)?,
            Helper::RingbufReserve => self.ringbuf_reserve(r)?,
            Helper::RingbufSubmit => self.ringbuf_end(r[0], true)?,
            Helper::RingbufDiscard => self.ringbuf_end(r[0], false)?,
            Helper::RingbufQuery => self.ring(r[0], Kind::Ringbuf)?.1.query(r[1]),
            Helper::CsumDiff => self.csum_diff(r)?,
            Helper::Strncmp => self.strncmp(r)?,
            Helper::FibLookup => self.fib_lookup(r)?,
            Helper::CheckMtu => self.check_mtu(r)?,
            Helper::XdpAdjustHead => {
                self.context(r[0])?;
                self.mem.packet.adjust_head(r[1] as i32) as u64
            }
            Helper::XdpAdjustMeta => {
                self.context(r[0])?;
                self.mem.packet.adjust_meta(r[1] as i32) as u64
            }
            Helper::XdpAdjustTail => {
                self.context(r[0])?;
                self.mem.packet.adjust_tail(r[1] as i32) as u64
            }
            Helper::XdpGetBuffLen => {
                self.context(r[0])?;
                self.mem.packet.len() as u64
            }
            Helper::XdpLoadBytes | Helper::XdpStoreBytes => self.copy(helper, r)?,
        };
        Ok(Called::Value(value))
    }

    fn context(&self, addr: u64) -> Result<(), Error> {
        if addr == TAG_CTX << TAG { Ok(()) } else { Err((Bad::NoContext, addr)) }
    }

    fn map(&self, addr: u64) -> Result<(usize, &'a Map), Error> {
        let number = (addr & !(TAG_MAP << TAG)) as usize;
        let maps: &'a [_] = self.mem.maps;
        let map = maps.get(number).filter(|_| addr >> TAG == TAG_MAP);
        map.map(|m| (number, &**m)).ok_or((Bad::Map, addr))
    }

    /// Calls `f` with `len` bytes of the program's memory.
    fn with_bytes<T>(
        &mut self,
        addr: u64,
        len: usize,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Error> {
        if let Some(bytes) = self.mem.slice(addr, len) {
            return Ok(f(bytes));
        }
        self.copy_of(addr, len).map(|bytes| f(&bytes))
    }
    #[cold]
    fn copy_of(&mut self, addr: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).map_err(|bad| (bad, addr))?;
        Ok(bytes)
    }

    fn map_lookup_elem(&mut self, map: u64, key: u64, cpu: u32) -> Result<u64, Error> {
        let (number, found) = self.map(map)?;
        use Kind::{Cpumap, PerfEventArray, ProgArray, Ringbuf};
        if matches!(found.def().kind, Cpumap | PerfEventArray | ProgArray | Ringbuf) {
            return Err((Bad::Map, map));
        }
        let (size, shift) = (found.def().key_size as usize, found.shift);
        let slot = match self.mem.slice(key, size) {
            Some(key) => found.find(key, cpu),
            None => {
                let key = self.copy_of(key, size)?;
                self.mem.maps[number].find(&key, cpu)
            }
        };
        Ok(slot.map_or(0, |slot| value_address(number, (slot as u64) << shift)))
    }

    fn map_lookup_percpu_elem(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let (_, map) = self.map(r[0])?;
        if !map.def().kind.is_percpu() {
            return Err((Bad::Map, r[0]));
        }
        let cpu = r[2] as u32;
        if cpu >= map.cpus() { Ok(0) } else { self.map_lookup_elem(r[0], r[1], cpu) }
    }

    fn map_update_elem(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        use Kind::{Array, Hash, LpmTrie, LruHash, LruPercpuHash, PercpuArray, PercpuHash};
        let kinds = [Array, Hash, LpmTrie, LruHash, LruPercpuHash, PercpuArray, PercpuHash];
        let (number, map) = self.map(r[0])?;
        let def = map.def();
        if !kinds.contains(&def.kind) {
            return Err((Bad::Map, r[0]));
        }
        if def.flags & crate::maps::RDONLY_PROG != 0 {
            return Err((Bad::ReadOnly, r[0]));
        }
        let (key, value) = (def.key_size as usize, def.value_size as usize);
        let value = self.copy_of(r[2], value)?;
        let cpu = self.host.cpu;
        let maps = self.mem.maps;
        self.with_bytes(r[1], key, |key| result(maps[number].update(key, &value, r[3], cpu)))
    }

    /// The generator is xorshift64*: nobody is kept out by it.
    fn random(&mut self) -> u64 {
        let mut x = *self.host.random | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        *self.host.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    fn trace_printk(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let format = self.copy_of(r[0], size(r[1], print::FORMAT_MAX)?)?;
        let [_, _, a, b, c] = r;
        let mem = &mut self.mem;
        match print::format(&format, [a, b, c], |addr, out| mem.read(addr, out).is_ok()) {
            Some(line) => {
                let len = line.len() as u64;
                self.host.program.say(line);
                Ok(len)
            }
            None => Ok(negative(libc::EINVAL)),
        }
    }

    fn tail_call(&mut self, r: [u64; 5]) -> Result<Called, Error> {
        self.context(r[0])?;
        let (_, map) = self.map(r[1])?;
        if map.def().kind != Kind::ProgArray {
            return Err((Bad::Map, r[1]));
        }
        // The value is the program's number and one, so that zero is none.
        let number = map.find(&(r[2] as u32).to_le_bytes(), 0).map_or(0, |slot| map.number(slot));
        let entry = self.host.program.entry(number);
        match entry.filter(|_| self.host.tails > 0) {
            Some(entry) => {
                self.host.tails -= 1;
                if self.mem.making.iter().any(|m| m.live) {
                    return Err((Bad::RecordLeft, 0));
                }
                Ok(Called::Tail(entry))
            }
            // It failed: the program goes on behind it.
            None => Ok(Called::Value(negative(libc::ENOENT))),
        }
    }

    fn bpf_loop(&mut self, r: [u64; 5]) -> Result<Called, Error> {
        let (times, function, context, flags) = (r[0] as u32 as u64, r[1], r[2], r[3]);
        let at = (function & !(TAG_FUNC << TAG)) as usize;
        let known = self.functions.binary_search(&(at as u32)).is_ok() && at < self.ops.len();
        if function >> TAG != TAG_FUNC || !known {
            return Err((Bad::Function, function));
        }
        Ok(match () {
            () if flags != 0 => Called::Value(negative(libc::EINVAL)),
            () if times > LOOPS_MAX => Called::Value(negative(libc::E2BIG)),
            () if times == 0 => Called::Value(0),
            () => Called::Loop(Again { function: at, done: 0, times, context }),
        })
    }

    fn redirect(&mut self, ifindex: u64, flags: u64) -> u64 {
        if flags != 0 {
            return XDP_ABORTED;
        }
        *self.host.redirect = Some(Redirect::Dev(ifindex as u32));
        XDP_REDIRECT
    }

    fn redirect_map(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let (_, map) = self.map(r[0])?;
        let kind = map.def().kind;
        // Two bits say what is to be done without a target.
        if r[2] & !3 != 0 {
            // To all devices at once (BPF_F_BROADCAST) is not provided.
            let all = matches!(kind, Kind::Devmap | Kind::DevmapHash) && r[2] & !0x1b == 0;
            return if all { Err((Bad::Flag, r[2])) } else { Ok(XDP_ABORTED) };
        }
        let key = r[1] as u32;
        let slot = map.find(&key.to_le_bytes(), 0);
        let target = match (kind, slot) {
            (Kind::Devmap | Kind::DevmapHash, slot) => {
                slot.map(|slot| Redirect::Dev(map.number(slot)))
            }
            (Kind::Cpumap, slot) => slot.map(|_| Redirect::Cpu(key)),
            // No socket can be in it.
            (Kind::Xskmap, _) => None,
            _ => return Err((Bad::Map, r[0])),
        };
        *self.host.redirect = target;
        Ok(if target.is_some() { XDP_REDIRECT } else { r[2] & 3 })
    }

    fn ring(&self, addr: u64, kind: Kind) -> Result<(usize, &'a crate::maps::Ring), Error> {
        let (number, map) = self.map(addr)?;
        match map.ring() {
            Some(ring) if map.def().kind == kind => Ok((number, ring)),
            _ => Err((Bad::Map, addr)),
        }
    }

    fn perf_event_output(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let [ctx, map, flags, data, len] = r;
        self.context(ctx)?;
        let (number, _) = self.ring(map, Kind::PerfEventArray)?;
        let cpu = self.host.cpu;
        let index = if flags & INDEX_MASK == INDEX_MASK { cpu } else { flags as u32 };
        let packet = flags >> 32;
        if packet >> 20 != 0 {
            return Ok(negative(libc::EINVAL));
        }
        if packet > self.mem.packet.len() as u64 {
            return Ok(negative(libc::EFAULT));
        }
        if index >= self.mem.maps[number].def().max_entries {
            return Ok(negative(libc::E2BIG));
        }
        // As the kernel's perf: events are read on the processor that they happen on.
        if index != cpu {
            return Ok(negative(libc::EOPNOTSUPP));
        }
        let mut sample = self.copy_of(data, size(len, COPY_MAX)?)?;
        let at = sample.len();
        sample.resize(at + packet as usize, 0);
        self.mem.packet.load_bytes(0, &mut sample[at..]);
        Ok(self.write_record(number, sample, libc::ENOSPC))
    }

    fn ringbuf_output(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let (number, ring) = self.ring(r[0], Kind::Ringbuf)?;
        if r[3] & !3 != 0 {
            return Ok(negative(libc::EINVAL));
        }
        if r[2] > ring.size {
            return Ok(negative(libc::EAGAIN));
        }
        let data = self.copy_of(r[1], r[2] as usize)?;
        Ok(self.write_record(number, data, libc::EAGAIN))
    }

    fn write_record(&mut self, map: usize, data: Vec<u8>, full: i32) -> u64 {
        let Some(ring) = self.mem.maps[map].ring() else { return negative(libc::EINVAL) };
        if !ring.reserve(data.len() as u64) {
            return negative(full);
        }
        ring.submit(Record { cpu: self.host.cpu, data });
        0
    }

    fn ringbuf_reserve(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let (map, ring) = self.ring(r[0], Kind::Ringbuf)?;
        let (len, flags) = (r[1], r[2]);
        if flags != 0 || len > ring.size || !ring.reserve(len) {
            return Ok(0);
        }
        let making = Making { map, data: vec![0; len as usize], live: true };
        let number = self.mem.making.len();
        if number >= RECORDS_MAX {
            ring.release(len);
            return Err((Bad::Records, number as u64));
        }
        self.mem.making.push(making);
        Ok(TAG_RECORD << TAG | (number as u64) << 32)
    }

    fn ringbuf_end(&mut self, addr: u64, submit: bool) -> Result<u64, Error> {
        let number = (addr >> 32 & 0xff_ffff) as usize;
        let making = self.mem.making.get_mut(number);
        let making = making.filter(|m| m.live && addr >> TAG == TAG_RECORD && addr as u32 == 0);
        let Some(making) = making else { return Err((Bad::NoRecord, addr)) };
        making.live = false;
        let data = std::mem::take(&mut making.data);
        if let Some(ring) = self.mem.maps[making.map].ring() {
            if submit {
                ring.submit(Record { cpu: self.host.cpu, data });
            } else {
                ring.discard(data.len() as u64);
            }
        }
        Ok(0)
    }

    /// `bpf_csum_diff`: the sum of `to` less that of `from`, and the seed; folded to 16 bits.
    fn csum_diff(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let [from, from_size, to, to_size, seed] = r;
        if (from_size | to_size) & 3 != 0 {
            return Ok(negative(libc::EINVAL));
        }
        let (from_size, to_size) = (size(from_size, COPY_MAX)?, size(to_size, COPY_MAX)?);
        let mut sum = u64::from(seed as u32);
        if to_size > 0 {
            sum += self.with_bytes(to, to_size, words)?;
        }
        if from_size > 0 {
            // In one's complement, to subtract is to add the complement.
            let less = self.with_bytes(from, from_size, |b| u64::from(!fold32(words(b))))?;
            sum += less;
        }
        let sum = fold32(sum);
        let sum = (sum & 0xffff) + (sum >> 16);
        Ok(u64::from((sum & 0xffff) + (sum >> 16)))
    }

    fn strncmp(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let len = size(r[1], COPY_MAX)?;
        let one = self.copy_of(r[0], len)?;
        // The second one is a constant string: it ends with a zero, before or at the length.
        for (i, a) in one.iter().enumerate() {
            let at = r[2].wrapping_add(i as u64);
            let b = self.mem.load::<1>(at).map_err(|bad| (bad, at))? as u8;
            if *a != b {
                return Ok((i64::from(*a) - i64::from(b)) as u64);
            }
            if b == 0 {
                break;
            }
        }
        Ok(0)
    }

    fn fib_lookup(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        self.context(r[0])?;
        let mut params = [0; super::FIB_PARAMS];
        if (r[2] as usize) < params.len() || r[3] & !0x3f != 0 {
            return Ok(negative(libc::EINVAL));
        }
        self.mem.read(r[1], &mut params).map_err(|bad| (bad, r[1]))?;
        let Some(fib) = &mut self.host.fib else { return Ok(super::FIB_NOT_FWDED) };
        let answer = fib.lookup(&mut params, r[3] as u32);
        self.mem.write(r[1], &params).map_err(|bad| (bad, r[1]))?;
        Ok(answer as u64)
    }

    fn check_mtu(&mut self, r: [u64; 5]) -> Result<u64, Error> {
        let [ctx, ifindex, mtu_len, delta, flags] = r;
        self.context(ctx)?;
        if flags != 0 {
            return Ok(negative(libc::EINVAL));
        }
        let ifindex = if ifindex as u32 == 0 { self.mem.ifindex } else { ifindex as u32 };
        let mtu = self.host.fib.as_ref().and_then(|fib| fib.mtu(ifindex));
        let Some(mtu) = mtu else { return Ok(negative(libc::ENODEV)) };
        let given = self.mem.load::<4>(mtu_len).map_err(|bad| (bad, mtu_len))? as i64;
        // A length that is given is that of the network layer.
        let len = if given == 0 { self.mem.packet.len() as i64 - 14 } else { given };
        self.mem.store::<4>(mtu_len, u64::from(mtu)).map_err(|bad| (bad, mtu_len))?;
        // BPF_MTU_CHK_RET_FRAG_NEEDED
        Ok(u64::from(len + i64::from(delta as i32) > i64::from(mtu)))
    }

    fn copy(&mut self, helper: Helper, r: [u64; 5]) -> Result<u64, Error> {
        let [ctx, off, buf, len, _] = r;
        self.context(ctx)?;
        if off > COPY_MAX || len > COPY_MAX {
            return Ok(negative(libc::EFAULT));
        }
        let (off, len) = (off as usize, len as usize);
        if off + len > self.mem.packet.len() {
            return Ok(negative(libc::EINVAL));
        }
        if helper == Helper::XdpStoreBytes {
            let bytes = self.copy_of(buf, len)?;
            let stored = self.mem.packet.store_bytes(off, &bytes);
            // What lies in fragments may be shared with others.
            return Ok(if stored { 0 } else { negative(libc::EACCES) });
        }
        let mut bytes = vec![0; len];
        self.mem.packet.load_bytes(off, &mut bytes);
        self.mem.write(buf, &bytes).map_err(|bad| (bad, buf))?;
        Ok(0)
    }
}

fn size(len: u64, max: u64) -> Result<usize, Error> {
    if len <= max { Ok(len as usize) } else { Err((Bad::Size, len)) }
}

/// The sum of 16-bit words in the machine's order, little-endian here as programs see it.
fn words(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|w| u64::from(u32::from_le_bytes(*w))).sum()
}
fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}
