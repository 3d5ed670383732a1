//! Echo, discard and chargen over TCP.
//!
//! RFCs: 862, 863, 864

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;

use super::Step;

/// Bytes that one connection moves in a turn.
const BYTES_PER_TURN: usize = 512 * 1024;
/// From here on data is read into the memory that is sent, instead of packed with what is queued.
const WHOLE_CHUNK: usize = 16 * 1024;

/// Asks to be told when there is room to send again.
pub(super) fn wait_for_room(shard: &mut Shard, id: SocketId) {
    // A write that takes nothing: the connection notes that its writer waits.
    let _ = shard.tcp_send(id, &[]);
}

/// Sends back what comes. What the peer does not read back is not read from it either: its own
/// window then stops it.
pub(super) fn echo(shard: &mut Shard, id: SocketId, scratch: &mut [u8]) -> Step {
    let mut moved = 0;
    while moved < BYTES_PER_TURN {
        let there = match shard.tcp_readable(id) {
            Ok(there) => there,
            Err(TcpError::WouldBlock) => return Step::Idle,
            Err(_) => return Step::Close,
        };
        if there.bytes == 0 {
            // Closing sends what is queued, and then the FIN.
            return if there.fin { Step::Close } else { Step::Idle };
        }
        let room = shard.tcp_send_space(id).min(there.bytes).min(scratch.len());
        if room == 0 {
            wait_for_room(shard, id);
            return Step::Idle;
        }
        let sent = if room >= WHOLE_CHUNK {
            let mut chunk = shard.take_chunk(room);
            let spare = chunk.spare_mut().map_or(0, |spare| {
                let most = spare.len().min(room);
                shard.tcp_recv(id, &mut spare[..most]).unwrap_or(0)
            });
            chunk.fill(spare);
            let sent = shard.tcp_send_chunk(id, chunk);
            sent.map(|()| spare).map_err(|(chunk, e)| {
                shard.give_chunk(chunk);
                e
            })
        } else {
            let n = shard.tcp_recv(id, &mut scratch[..room]).unwrap_or(0);
            shard.tcp_send(id, &scratch[..n])
        };
        match sent {
            Ok(n) if n > 0 => moved += n,
            _ => return Step::Close,
        }
    }
    Step::More
}

/// Throws away what comes.
pub(super) fn discard(shard: &mut Shard, id: SocketId) -> Step {
    match shard.tcp_readable(id) {
        Ok(there) => {
            shard.tcp_consume(id, there.bytes);
            if there.fin { Step::Close } else { Step::Idle }
        }
        Err(TcpError::WouldBlock) => Step::Idle,
        Err(_) => Step::Close,
    }
}

/// Characters in a line, and different ones.
const LINE: usize = 72;
const PRINTABLE: usize = 95;
/// A line with its end.
pub(super) const LINE_END: usize = LINE + 2;
/// After this many bytes the pattern begins anew.
pub(super) const PATTERN: usize = PRINTABLE * LINE_END;

/// The character at `at` of the endless pattern: each line begins one character later.
pub(super) fn pattern(at: usize) -> u8 {
    let (line, column) = (at / LINE_END % PRINTABLE, at % LINE_END);
    match column {
        LINE => b'\r',
        n if n > LINE => b'\n',
        n => b' ' + ((line + n) % PRINTABLE) as u8,
    }
}

/// Sends characters as long as the peer takes them; what it says is thrown away.
pub(super) fn chargen(shard: &mut Shard, id: SocketId, at: &mut usize) -> Step {
    match shard.tcp_readable(id) {
        // One who has said all may still listen.
        Ok(there) => shard.tcp_consume(id, there.bytes),
        Err(TcpError::WouldBlock) => {}
        Err(_) => return Step::Close,
    }
    let mut moved = 0;
    while moved < BYTES_PER_TURN {
        let room = shard.tcp_send_space(id);
        if room == 0 {
            wait_for_room(shard, id);
            return Step::Idle;
        }
        let mut chunk = shard.take_chunk(room);
        let filled = chunk.spare_mut().map_or(0, |spare| {
            let most = spare.len().min(room);
            for (i, byte) in spare[..most].iter_mut().enumerate() {
                *byte = pattern(*at + i);
            }
            most
        });
        chunk.fill(filled);
        if let Err((chunk, e)) = shard.tcp_send_chunk(id, chunk) {
            shard.give_chunk(chunk);
            return if e == TcpError::WouldBlock { Step::Idle } else { Step::Close };
        }
        *at = (*at + filled) % PATTERN;
        moved += filled;
    }
    Step::More
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_that_of_the_rfc() {
        let text: Vec<u8> = (0..PATTERN + LINE_END).map(pattern).collect();
        let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        assert!(lines[0].starts_with(b" !\"#$%&'()*+,-./0123456789:;<=>?@ABC"));
        assert!(lines[1].starts_with(b"!\"#$") && lines[94].starts_with(b"~ !\""));
        assert_eq!(lines[95], lines[0]);
        assert!(lines.iter().all(|l| l.len() == 74 && l.ends_with(b"\r\n")));
    }
}
