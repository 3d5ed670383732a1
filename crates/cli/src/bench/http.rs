//! HTTP through a published port: nginx in the program's place, wrk on the host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::peers::{SCRATCH, cpu_args};

/// Where nginx listens, on every address of its namespace.
pub const INSIDE: u16 = 8080;
/// The port of the host's loopback that leads there.
pub const PUBLISHED: u16 = 8081;
/// Connections that wrk keeps open.
pub const CONNECTIONS: u32 = 32;

/// nginx, killed when dropped.
#[derive(Debug)]
pub struct Nginx(Child);

impl Nginx {
    /// Starts it, with one worker that answers every request from memory, and waits until it accepts.
    ///
    /// # Errors
    /// That it is not installed, or what it said before it ended.
    pub fn start() -> io::Result<Self> {
        let dir = Path::new(SCRATCH).join("nginx");
        fs::create_dir_all(&dir)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(&dir.to_string_lossy()))?;
        let log = dir.join("said.log");
        // It is to end with this process, however that ends.
        let mut command = Command::new("/proc/self/exe");
        command.args(["__traffic", "pinned", "--with-parent", "--", "nginx", "-c"]).arg(&config);
        command.arg("-e").arg("stderr").arg("-p").arg(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let mut nginx = Self(command.spawn()?);
        let patience = Instant::now() + Duration::from_secs(10);
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), INSIDE);
        while let Err(e) = TcpStream::connect(at) {
            let ended = nginx.0.try_wait()?.is_some();
            if ended || Instant::now() > patience {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let why = format!("nginx does not accept ({e}): {}", said.trim());
                return Err(io::Error::other(why));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One process and no other user, so that it needs no right to change to one.
fn configuration(dir: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n\
         \x20 keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n{temporary}\
         \x20 server {{\n    listen {INSIDE} backlog=4096;\n    default_type text/plain;\n\
         \x20   location / {{ return 200 \"{}\"; }}\n  }}\n}}\n",
        "x".repeat(128)
    )
}

/// Requests per second that wrk gets answered at a port, kept up for at least one second.
///
/// # Errors
/// That it is not installed, or that a request failed.
pub fn wrk(to: IpAddr, port: u16, time: Duration, cpu: Option<usize>) -> io::Result<f64> {
    let secs = time.as_secs_f64().round().max(1.0);
    let mut command = Command::new("/proc/self/exe");
    command.args(["__traffic", "pinned"]).args(cpu_args(cpu)).args(["--", "wrk", "-t", "1"]);
    command.args(["-c", &CONNECTIONS.to_string(), "-d", &format!("{secs}s")]);
    let output = command.arg(format!("http://{}/", SocketAddr::new(to, port))).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match requests(&said) {
        Some(rate) if output.status.success() => Ok(rate),
        _ => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let why = format!("wrk: {} {}", said.trim(), complaint.trim());
            Err(io::Error::other(why.replace('\n', "; ")))
        }
    }
}

/// What wrk printed, if all of its requests were answered.
fn requests(said: &str) -> Option<f64> {
    let all_answered = !said.contains("Socket errors") && !said.contains("Non-2xx");
    let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    rate.trim().parse().ok().filter(|&rate| all_answered && rate > 0.0)
}

/// The versions of nginx and wrk, or which is missing.
pub fn versions() -> Result<Vec<(&'static str, String)>, String> {
    Ok(vec![("nginx", version("nginx", "nginx-light")?), ("wrk", version("wrk", "wrk")?)])
}

fn version(program: &str, package: &str) -> Result<String, String> {
    let output = Command::new(program).arg("-v").stdin(Stdio::null()).output().map_err(|e| {
        format!("http: {program} cannot be started ({e}): install the package {package}")
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let first = first.strip_prefix("nginx version: ").unwrap_or(first);
    Ok(first.split(" Copyright").next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn requests_that_failed_are_no_rate() {
        let said = "Running 1s test\n  10 requests in 1.00s\nRequests/sec:  45123.45\n";
        assert_eq!(requests(said), Some(45123.45));
        for bad in [
            "",
            "Requests/sec:      0.00\n",
            "  Socket errors: connect 0, read 1, write 0, timeout 0\nRequests/sec:  45123.45\n",
            "  Non-2xx or 3xx responses: 3\nRequests/sec:  45123.45\n",
        ] {
            assert_eq!(requests(bad), None, "{bad}");
        }
    }
}
