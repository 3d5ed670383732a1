//! The yardstick: a relay between two kernel TCP connections with `read` and `write`, the least a
//! gateway that terminates TCP can do. Two threads a connection, one a direction; one for each UDP
//! port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::traffic::{CHUNK_BYTES, port, tcp_socket};
use super::{http, udp_flow};

/// Relays every port of the host end, and the published one to the program, until killed.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`.
pub fn serve(listen: IpAddr, to: IpAddr, program: IpAddr) -> io::Result<()> {
    let at = |port| (SocketAddr::new(listen, port), SocketAddr::new(to, port));
    let published = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), http::PUBLISHED);
    let web = (published, SocketAddr::new(program, http::INSIDE));
    let mut threads = Vec::new();
    for (listen, to) in port::ALL.map(at).into_iter().chain([web]) {
        let socket = tcp_socket(listen.ip())?;
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        threads.push(thread::spawn(move || {
            for inner in listener.incoming().flatten() {
                thread::spawn(move || relay(inner, to));
            }
        }));
    }
    for (listen, to) in [port::UDP_SINK, port::UDP_SOURCE, port::SOCKPERF].map(at) {
        let socket = udp_flow::socket(listen)?;
        threads.push(thread::spawn(move || {
            if let Err(e) = udp_flow::relay(&socket, to) {
                eprintln!("relay of UDP port {}: {e}", listen.port());
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn relay(inner: TcpStream, to: SocketAddr) -> io::Result<()> {
    let socket = tcp_socket(to.ip())?;
    socket.connect(&to.into())?;
    let outer = TcpStream::from(socket);
    inner.set_nodelay(true)?;
    outer.set_nodelay(true)?;
    let (inner_read, outer_write) = (inner.try_clone()?, outer.try_clone()?);
    let up = thread::spawn(move || copy(&inner_read, &outer_write));
    copy(&outer, &inner);
    let _ = up.join();
    Ok(())
}

/// Copies until the end of the stream, then half-closes; after an error closes both ways.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) if chunk.get(..n).is_some_and(|read| to.write_all(read).is_ok()) => {}
            _ => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::relay;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// Both directions arrive unchanged, and each end of stream travels on its own.
    #[test]
    fn relays_both_ways_with_half_close() -> std::io::Result<()> {
        let server = TcpListener::bind("127.0.0.1:0")?;
        let front = TcpListener::bind("127.0.0.1:0")?;
        let (to, at) = (server.local_addr()?, front.local_addr()?);
        let relaying = std::thread::spawn(move || relay(front.accept()?.0, to));
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept()?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            all.reverse();
            stream.write_all(&all)
        });
        let mut client = TcpStream::connect(at)?;
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        client.write_all(&sent)?;
        client.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        client.read_to_end(&mut back)?;
        back.reverse();
        assert!(back == sent, "the bytes that came back differ from those sent");
        serving.join().expect("the server does not panic")?;
        relaying.join().expect("the relay does not panic")
    }
}
