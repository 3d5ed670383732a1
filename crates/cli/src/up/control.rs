//! What an instance of several shards answers on its control socket.

use linerate_core::table::Knobs;
use linerate_core::table::knob::Takes;
use linerate_gateway::control::{Meta, Request, Response, SOCKETS_MAX, Snapshot};

use super::instance::Up;

/// Answers a request.
pub(super) fn answer(up: &mut Up, request: Request) -> Response {
    match request {
        Request::Snapshot { sockets } => {
            Response::Snapshot(Box::new(snapshot(up, sockets.min(SOCKETS_MAX))))
        }
        Request::Get(knob) => get(up, &knob),
        Request::Set(knob, value) => match set(up, &knob, &value) {
            Ok(()) => get(up, &knob),
            Err(why) => Response::Error(why),
        },
    }
}

fn get(up: &Up, knob: &str) -> Response {
    let path = knob.to_owned();
    match up.workers.ask(0, move |drive, _| drive.shard.net.knobs.get(&path)) {
        Ok(Ok(value)) => Response::Value { knob: knob.to_owned(), value },
        Ok(Err(e)) => Response::Error(e.to_string()),
        Err(gone) => Response::Error(gone.to_string()),
    }
}

fn set(up: &mut Up, knob: &str, value: &str) -> Result<(), String> {
    let row = Knobs::row(knob).map_err(|e| e.to_string())?;
    if row.takes == Takes::Restart {
        return Err(format!("{} can only be set when the instance starts", row.path));
    }
    up.workers.set_knob(row.path, value).map_err(|e| e.to_string())
}

/// One reading of all shards.
pub(super) fn snapshot(up: &Up, sockets: usize) -> Snapshot {
    let (name, notes) = (up.name.clone(), up.notes.clone());
    let uptime_ns = up.begun.elapsed().as_nanos() as u64;
    let meta = Meta {
        name,
        pid: std::process::id(),
        uptime_ns,
        notes,
        sockets_max: sockets,
        ..Meta::default()
    };
    let parts = up.workers.ask_all(move |drive, _| {
        drive.count_losses();
        Snapshot::take(&drive.shard, meta.clone())
    });
    Snapshot::merge(parts)
}
