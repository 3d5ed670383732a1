//! System calls: from a script's words to a call, and from its outcome to a judgement.

use std::collections::BTreeMap;

use nix::libc;

use super::consts::errno_name;
use super::engine::Opened;
use super::script::{Expr, Syscall};
use super::target::{Call, Fd, Outcome, Target, Value};
use super::wire::{LOCAL_PORT, REMOTE_PORT};

/// A call that is to be done.
pub(super) struct Asked {
    /// `None` = the runner's own affair (`fcntl`).
    pub call: Option<Call>,
    /// The script's number of the descriptor.
    pub number: i64,
    /// The call waits until it can be done.
    pub blocks: bool,
    /// A connect has been begun.
    begun: bool,
}

/// What a call gave, held against the script.
pub(super) struct Found {
    /// The call with its result, in the script's words.
    pub text: String,
    /// In what it is not as expected.
    pub fault: Option<String>,
    /// It made a connection of this descriptor.
    pub connection: Option<Fd>,
}

/// Reads the arguments of a call.
pub(super) fn resolve(call: &Syscall, fds: &mut BTreeMap<i64, Opened>) -> Result<Asked, String> {
    let arg = |i: usize| call.args.get(i).unwrap_or(&Expr::Ellipsis);
    let int = |i: usize| match arg(i) {
        Expr::Ellipsis => Ok(0),
        other => other
            .int()
            .ok_or_else(|| format!("expected a number as argument {} of {}", i + 1, call.name)),
    };
    let port = |i: usize, otherwise: u16| {
        let port = arg(i).field("sin_port").or_else(|| arg(i).field("sin6_port"));
        port.and_then(Expr::int).map_or(otherwise, |p| p as u16)
    };
    let asked = |call, number, blocks| Ok(Asked { call, number, blocks, begun: false });
    if call.name == "socket" {
        return asked(Some(Call::Socket), -1, false);
    }
    if call.name == "poll" {
        let Expr::List(list) = arg(0) else { return Err("expected a list of one pollfd".into()) };
        let one = list.first().ok_or("expected a list of one pollfd")?;
        let field = |name| one.field(name).and_then(Expr::int).unwrap_or(0);
        let number = field("fd");
        let opened = fds.get(&number).ok_or("expected a descriptor that is open")?;
        return asked(Some(Call::Poll(opened.fd, field("events") as i16)), number, int(2)? != 0);
    }
    let number = int(0)?;
    let opened = *fds.get(&number).ok_or_else(|| {
        format!("expected a descriptor that is open in {}, found {number}", call.name)
    })?;
    let fd = opened.fd;
    let flags = |i: usize| -> Result<i32, String> { Ok(int(i)? as i32) };
    let waits = !opened.nonblock;
    let peaceful = |f: i32| waits && f & libc::MSG_DONTWAIT == 0;
    let what = match call.name.as_str() {
        "bind" => Call::Bind(fd, port(1, LOCAL_PORT)),
        "listen" => Call::Listen(fd, int(1)? as i32),
        "accept" | "accept4" => return asked(Some(Call::Accept(fd)), number, waits),
        "connect" => return asked(Some(Call::Connect(fd, port(1, REMOTE_PORT))), number, waits),
        "read" => return asked(Some(Call::Recv(fd, int(2)? as usize, 0)), number, waits),
        "write" => return asked(Some(Call::Send(fd, int(2)? as usize, 0)), number, waits),
        "recv" | "recvfrom" => {
            let f = flags(3)?;
            return asked(Some(Call::Recv(fd, int(2)? as usize, f)), number, peaceful(f));
        }
        "send" | "sendto" => {
            let f = flags(3)?;
            return asked(Some(Call::Send(fd, int(2)? as usize, f)), number, peaceful(f));
        }
        "shutdown" => Call::Shutdown(fd, int(1)? as i32),
        "close" => Call::Close(fd),
        "setsockopt" => Call::SetOpt(fd, int(1)? as i32, int(2)? as i32, value(arg(3))?),
        "getsockopt" => Call::GetOpt(fd, int(1)? as i32, int(2)? as i32),
        "ioctl" => Call::Ioctl(fd, int(1)? as u64),
        "fcntl" => {
            if int(1)? == i64::from(libc::F_SETFL) {
                let nonblock = int(2)? & i64::from(libc::O_NONBLOCK) != 0;
                fds.insert(number, Opened { fd, nonblock });
            }
            return asked(None, number, false);
        }
        other => return Err(format!("expected a system call that is known, found {other}")),
    };
    asked(Some(what), number, false)
}

fn value(expr: &Expr) -> Result<Value, String> {
    match expr {
        Expr::Str(name) => Ok(Value::Name(name.clone())),
        Expr::Struct(fields) => {
            let at = |i: usize, name: &str| {
                let named = expr.field(name).or_else(|| fields.get(i).map(|f| &f.1));
                named.and_then(Expr::int).unwrap_or(0)
            };
            Ok(Value::Linger(at(0, "onoff") != 0, at(1, "linger") as u16))
        }
        other => {
            let n = other.int().ok_or("expected a number, a string or {onoff, linger}")?;
            i32::try_from(n).map(Value::Int).map_err(|_| "expected a number of 32 bits".into())
        }
    }
}

/// Does the call; `None` = it blocks still.
pub(super) fn attempt(
    asked: &mut Asked,
    done: &mut usize,
    target: &mut dyn Target,
) -> Option<Outcome> {
    let Some(call) = &asked.call else { return Some(Ok((0, None))) };
    let now = match call {
        Call::Send(fd, len, flags) => Call::Send(*fd, len - *done, *flags),
        Call::Connect(fd, _) if asked.begun => Call::Connected(*fd),
        other => other.clone(),
    };
    let outcome = target.call(&now);
    asked.begun = true;
    match (&now, outcome) {
        (Call::Send(_, left, _), Ok((n, _))) if asked.blocks && (n as usize) < *left => {
            *done += n as usize;
            None
        }
        (Call::Send(..), Ok((n, value))) => Some(Ok((n + *done as i64, value))),
        (Call::Send(..), Err(e)) if e != libc::EAGAIN && *done > 0 => {
            Some(Ok((*done as i64, None)))
        }
        (Call::Poll(..), Ok((0, _))) if asked.blocks => None,
        (_, Err(libc::EAGAIN | libc::EINPROGRESS)) if asked.blocks => None,
        (_, outcome) => Some(outcome),
    }
}

/// Holds the outcome against what the script expects, and opens or closes descriptors by it.
pub(super) fn conclude(
    (call, text): (&Syscall, &str),
    asked: &Asked,
    outcome: &Outcome,
    fds: &mut BTreeMap<i64, Opened>,
) -> Found {
    let opened = fds.get(&asked.number).map(|o| o.fd);
    let mut connection = None;
    let mut result = *outcome.as_ref().map(|(n, _)| n).unwrap_or(&-1);
    match (&asked.call, outcome) {
        (Some(Call::Socket | Call::Accept(_)), Ok((fd, _))) => {
            let free = || (3..).find(|n| !fds.contains_key(n)).unwrap_or(3);
            let number = call.result.int().filter(|n| *n >= 0).unwrap_or_else(free);
            let flags = if call.name == "socket" { 1 } else { 3 };
            let flags = call.args.get(flags).and_then(Expr::int).unwrap_or(0);
            let nonblock = flags & i64::from(libc::SOCK_NONBLOCK) != 0;
            fds.insert(number, Opened { fd: *fd as Fd, nonblock });
            result = number;
            let accepted = matches!(asked.call, Some(Call::Accept(_)));
            connection = accepted.then_some(*fd as Fd);
        }
        (Some(Call::Connect(..)), Ok(_) | Err(libc::EINPROGRESS)) => connection = opened,
        (Some(Call::Close(_)), Ok(_)) => {
            fds.remove(&asked.number);
        }
        _ => {}
    }
    let errno = outcome.as_ref().err().map(|e| errno_name(*e));
    let wrote = outcome.as_ref().ok().and_then(|(_, v)| v.clone());
    let text = written(text, result, errno.as_deref(), wrote.as_ref());
    let mut fault = None;
    let asks_result = call.result.int().is_some_and(|want| want != result);
    if asks_result || call.errno != errno && call.result.int().is_some() {
        fault = Some(format!(
            "expected {} = {}{}, got {text}",
            call.name,
            call.result.int().unwrap_or_default(),
            call.errno.as_ref().map(|e| format!(" {e}")).unwrap_or_default(),
        ));
    } else if let Some(want) =
        expected_value(call).filter(|w| wrote.as_ref().is_some_and(|h| h != w))
    {
        fault = Some(format!("expected {want:?}, got {text}"));
    }
    Found { text, fault, connection }
}

/// What a call is to write, where the script says it.
fn expected_value(call: &Syscall) -> Option<Value> {
    match call.name.as_str() {
        "getsockopt" | "ioctl" => {
            let arg = call.args.get(if call.name == "ioctl" { 2 } else { 3 })?;
            match arg {
                Expr::Ellipsis | Expr::Learn => None,
                Expr::List(list) if matches!(list.first(), Some(Expr::Learn | Expr::Ellipsis)) => {
                    None
                }
                other => value(other).ok(),
            }
        }
        "poll" => {
            let Expr::List(list) = call.args.first()? else { return None };
            match list.first()?.field("revents")? {
                Expr::Int(n) => Some(Value::Int(*n as i32)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The call with its result as a script has it: `text` is what the script says, in which `?` and the
/// result are replaced by what came.
fn written(text: &str, result: i64, errno: Option<&str>, wrote: Option<&Value>) -> String {
    let head = text.rsplit_once('=').map_or(text, |(head, _)| head).trim_end();
    let learnt = match wrote {
        Some(Value::Int(n)) if text.contains("poll(") => poll_bits(*n),
        Some(Value::Int(n)) => n.to_string(),
        Some(Value::Name(n)) => format!("{n:?}"),
        _ => "...".to_owned(),
    };
    let errno = errno.map(|e| format!(" {e}")).unwrap_or_default();
    format!("{} = {result}{errno}", head.replace('?', &learnt))
}

fn poll_bits(bits: i32) -> String {
    let names = [
        (libc::POLLIN, "POLLIN"),
        (libc::POLLPRI, "POLLPRI"),
        (libc::POLLOUT, "POLLOUT"),
        (libc::POLLERR, "POLLERR"),
        (libc::POLLHUP, "POLLHUP"),
        (libc::POLLRDHUP, "POLLRDHUP"),
    ];
    let named = names.iter().filter(|(b, _)| bits & i32::from(*b) != 0);
    let named: Vec<&str> = named.map(|(_, n)| *n).collect();
    if named.is_empty() { "0".to_owned() } else { named.join("|") }
}
