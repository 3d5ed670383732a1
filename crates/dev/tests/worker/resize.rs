//! Workers and queues that come and go while connections stream.

use linerate_dev::mem::Nic;
use linerate_dev::worker::Workers;

use crate::app::{Client, Server, card, check_end, come_to_rest, servers};
use crate::wait_until;

const STREAMS: usize = 50;

/// One shard more, then its queue gets packets.
fn grow(server: &mut Workers<Server>, nic: &Nic) {
    let shard = server.add().expect("it starts");
    nic.set_channels(shard + 1);
}

/// The last queue gets no packets any more, then its shard goes.
fn shrink(server: &mut Workers<Server>, nic: &Nic) {
    let last = server.shards() - 1;
    nic.set_channels(last);
    wait_until("nothing is under way to the queue", || nic.settled(last as u8));
    server.remove().expect("its connections move");
}

fn progress(client: &Workers<Client>, bytes: u64) {
    let before = client.ask(0, |_, app| app.good).expect("it lives");
    wait_until("streams run", || {
        let now = client.ask(0, |_, app| (app.good, app.ended)).expect("it lives");
        now.0 >= before + bytes || now.1 == STREAMS
    });
}

/// Fifty streams, while the server goes from one shard to three and back to one, twice: no connection
/// ends early, no byte is wrong, no segment comes out of order.
#[test]
fn no_connection_suffers_when_shards_come_and_go() {
    for tso in [true, false] {
        let (near, far) = card(1, tso);
        let (mut server, client) = (servers(&near, 1), Client::start(&far));
        client
            .ask(0, |drive, app| {
                app.goal = 600_000;
                app.connect(&mut drive.shard, STREAMS);
            })
            .expect("it lives");
        progress(&client, 100_000);
        for _ in 0..2 {
            for _ in 0..2 {
                grow(&mut server, &near);
                progress(&client, 1_000_000);
            }
            for _ in 0..2 {
                shrink(&mut server, &near);
                progress(&client, 1_000_000);
            }
        }
        wait_until("all streams end", || {
            client.ask(0, |_, app| app.ended).expect("it lives") == STREAMS
        });
        come_to_rest(&server, &client);
        check_end(&client);
        check_end(&server);
        client.stop().expect("nothing failed");
        server.stop().expect("nothing failed");
    }
}

/// A shard goes although packets still come to its queue: connections move first, their packets
/// follow, and what is new goes to those that stay.
#[test]
fn connections_leave_a_shard_and_their_packets_follow() {
    let (near, far) = card(2, true);
    let (mut server, client) = (servers(&near, 2), Client::start(&far));
    client
        .ask(0, |drive, app| {
            app.goal = 400_000;
            app.connect(&mut drive.shard, STREAMS);
        })
        .expect("it lives");
    progress(&client, 1_000_000);
    let before = server.ask_all(|_, app| app.conns.len());
    assert!(before.iter().all(|n| *n > 0), "{before:?}");
    shrink(&mut server, &near);
    let all: usize = before.iter().sum();
    wait_until("they arrive at the other shard", || {
        let here = server.ask(0, |_, app| app.conns.len()).expect("it lives");
        // Streams may have ended meanwhile.
        here + client.ask(0, |_, app| app.ended).expect("it lives") >= all
    });
    wait_until("all streams end", || {
        client.ask(0, |_, app| app.ended).expect("it lives") == STREAMS
    });
    come_to_rest(&server, &client);
    check_end(&client);
    check_end(&server);
}

/// The last one stays, and what can not be built changes nothing.
#[test]
fn what_can_not_be_is_refused() {
    let (near, _far) = card(1, true);
    let mut server = servers(&near, 1);
    assert_eq!(server.remove().unwrap_err().raw_os_error(), Some(EBUSY));
    let taken = near.open(1).expect("it is free");
    assert_eq!(server.add().unwrap_err().raw_os_error(), Some(EBUSY));
    assert_eq!((server.shards(), server.mesh().shards()), (1, 1));
    drop(taken);
    assert_eq!(server.add().expect("it starts"), 1);
    assert_eq!((server.shards(), server.mesh().shards()), (2, 2));
    // Knobs that were set before hold there, too.
    let backlog = server.ask(1, |drive, _| drive.shard.net.knobs.netdev_max_backlog);
    assert_eq!(backlog, Ok(1_000_000));
    server.remove().expect("nothing holds it");
    assert_eq!((server.shards(), server.mesh().shards()), (1, 1));
}

/// The error number.
const EBUSY: i32 = 16;
