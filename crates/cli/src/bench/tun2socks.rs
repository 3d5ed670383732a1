//! The peer of Rust's crates: a TUN by tun-rs, with its offloads and its GRO, TCP and UDP taken apart by
//! netstack-smoltcp, `copy_bidirectional` of tokio to sockets of the host. That is what a program writes
//! today that has no stack of its own; the shape is that of netstack-smoltcp's example, whose best choice
//! of a TUN tun-rs is. One thread, as ours: the process stays on one CPU.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use linerate_dev::netdev::Netdev;
use netstack_smoltcp::udp::UdpMsg;
use netstack_smoltcp::{StackBuilder, TcpListener, UdpSocket};
use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};

/// The program's address and the one that leads to the host's loopback.
const PROGRAM: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// Bytes of a super-packet that the kernel reads or writes, at the most.
const SUPER: usize = 65535;
/// Replies of UDP that wait for the stack.
const REPLIES: usize = 512;

/// Forwards from a TUN in the network namespace of a file to the host's loopback, until killed.
///
/// # Errors
/// Those of the namespace and of the TUN.
pub fn serve(netns: &Path, mtu: u16) -> io::Result<()> {
    let outside = File::open("/proc/self/ns/net")?;
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let tun = open(mtu)?;
    setns(outside, CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(forward(tun, mtu))
}

fn open(mtu: u16) -> io::Result<tun_rs::SyncDevice> {
    let tun = DeviceBuilder::new().name("tun0").offload(true).build_sync()?;
    let mut netdev = Netdev::open().map_err(io::Error::other)?;
    let index = netdev.link("tun0").map_err(io::Error::other)?.index;
    netdev.add_addr(index, PROGRAM.into(), 24).map_err(io::Error::other)?;
    netdev.set_mtu(index, mtu.into()).map_err(io::Error::other)?;
    netdev.set_up(index, true).map_err(io::Error::other)?;
    Ok(tun)
}

async fn forward(tun: tun_rs::SyncDevice, mtu: u16) -> io::Result<()> {
    let tun = Arc::new(AsyncDevice::new(tun)?);
    let (stack, runner, udp, tcp) =
        StackBuilder::default().enable_tcp(true).enable_udp(true).mtu(mtu.into()).build()?;
    let (to_stack, from_stack) = stack.split();
    tokio::spawn(runner.ok_or_else(|| io::Error::other("no TCP"))?);
    tokio::spawn(streams(tcp.ok_or_else(|| io::Error::other("no TCP"))?));
    tokio::spawn(datagrams(udp.ok_or_else(|| io::Error::other("no UDP"))?));
    tokio::spawn(transmit(Arc::clone(&tun), from_stack));
    receive(&tun, mtu, to_stack).await
}

/// TUN to stack: one read, whose super-packet tun-rs cuts into segments.
async fn receive(
    tun: &AsyncDevice,
    mtu: u16,
    mut stack: impl Sink<Vec<u8>, Error = io::Error> + Unpin,
) -> io::Result<()> {
    let mut raw = vec![0; VIRTIO_NET_HDR_LEN + SUPER];
    let mut packets = vec![vec![0; usize::from(mtu)]; IDEAL_BATCH_SIZE];
    let mut lens = vec![0; IDEAL_BATCH_SIZE];
    loop {
        let n = tun.recv_multiple(&mut raw, &mut packets, &mut lens, 0).await?;
        for (packet, &len) in packets.iter().zip(&lens).take(n) {
            // What is no packet of IP is refused, and concerns that packet only.
            let _ = stack.send(packet[..len].to_vec()).await;
        }
    }
}

/// Stack to TUN: all that is there, which tun-rs joins where it belongs together.
async fn transmit(
    tun: Arc<AsyncDevice>,
    mut stack: impl Stream<Item = io::Result<Vec<u8>>> + Unpin,
) -> io::Result<()> {
    let mut gro = GROTable::new();
    let room = || Vec::with_capacity(2 * VIRTIO_NET_HDR_LEN + SUPER);
    let mut batch: Vec<Vec<u8>> = std::iter::repeat_with(room).take(IDEAL_BATCH_SIZE).collect();
    while let Some(first) = stack.next().await {
        let (mut n, mut next) = (0, Some(first));
        while let Some(packet) = next {
            let buf = &mut batch[n];
            buf.clear();
            buf.resize(VIRTIO_NET_HDR_LEN, 0);
            buf.extend_from_slice(&packet?);
            n += 1;
            let more = (n < IDEAL_BATCH_SIZE).then(|| stack.next().now_or_never());
            next = more.flatten().flatten();
        }
        tun.send_multiple(&mut gro, &mut batch[..n], VIRTIO_NET_HDR_LEN).await?;
    }
    Ok(())
}

/// Where the host is that the program calls 10.0.2.2.
fn host(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

async fn streams(mut listener: TcpListener) {
    while let Some((mut inner, _, to)) = listener.next().await {
        tokio::spawn(async move {
            // A connection that fails concerns that connection only.
            if let Ok(mut outer) = tokio::net::TcpStream::connect(host(to.port())).await
                && outer.set_nodelay(true).is_ok()
            {
                let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            }
        });
    }
}

/// A socket for each flow, and a task that reads it.
async fn datagrams(socket: UdpSocket) -> io::Result<()> {
    let (mut inner, mut to_program) = socket.split();
    let (reply, mut replies) = mpsc::channel::<UdpMsg>(REPLIES);
    tokio::spawn(async move {
        while let Some(reply) = replies.recv().await {
            if to_program.send(reply).await.is_err() {
                return;
            }
        }
    });
    let mut flows: HashMap<(SocketAddr, SocketAddr), Arc<tokio::net::UdpSocket>> = HashMap::new();
    while let Some((data, from, to)) = inner.next().await {
        let outer = match flows.get(&(from, to)) {
            Some(outer) => Arc::clone(outer),
            None => {
                let outer = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                outer.connect(host(to.port())).await?;
                let outer = Arc::new(outer);
                tokio::spawn(replies_of(Arc::clone(&outer), from, to, reply.clone()));
                flows.insert((from, to), Arc::clone(&outer));
                outer
            }
        };
        // An error that an earlier datagram met is none of this one.
        let _ = outer.send(&data).await;
    }
    Ok(())
}

async fn replies_of(
    outer: Arc<tokio::net::UdpSocket>,
    program: SocketAddr,
    host: SocketAddr,
    reply: mpsc::Sender<UdpMsg>,
) {
    let mut datagram = vec![0; SUPER];
    loop {
        // An error that an earlier datagram met is none of the flow.
        let Ok(n) = outer.recv(&mut datagram).await else { continue };
        if reply.send((datagram[..n].to_vec(), host, program)).await.is_err() {
            return;
        }
    }
}
