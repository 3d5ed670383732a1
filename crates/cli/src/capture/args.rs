//! The options of `capture`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use linerate_gateway::control::capture::Way;

/// Capture packets of a running instance, at any stage and in either direction; or read a capture.
///
/// Without --stage: where packets pass between devices and stack. Up to Link, and from Qdisc on, a
/// packet is captured with its link header, between them from its IP header on. A packet that the
/// stage drops has the reason beside it, as a comment in the file. The path never waits for the
/// capture: what the reader is too slow for is lost to it, and counted (`TapDrops`; at the end of the
/// file, too).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate capture --filter 'tcp port 80' -w out.pcapng
  linerate capture --stage Ip --name curl-4711
  linerate capture --stage Ip,Route,Demux --at drop
  linerate capture --stage IpOut --at after --filter 'tcp[tcpflags] & tcp-syn != 0' -c 10
  linerate capture --stage all --at drop -w lost.pcapng
  linerate capture -r out.pcapng --filter 'not port 22'

The filter has the words of pcap-filter(7): protocols, host, net, port, portrange, src, dst, vlan, len,
less, greater, relations over header bytes, and, or, not. Names of hosts are not looked up. The capture
ends with Ctrl-C, after --count packets, or with the instance; the file is whole in each case.

Exit status: 0, also if packets were lost; 1 if the file can not be written or the instance does not
answer; 2 for wrong usage.")]
pub struct CaptureArgs {
    /// At which stages, or `all`; repeatable, or joined by commas
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub stage: Vec<String>,
    /// Where at the stage: as packets come in, as they go on, or those that it drops
    #[arg(long, value_enum, value_name = "POINT", value_delimiter = ',', default_value = "before")]
    pub at: Vec<At>,
    /// Which packets, in the words of pcap-filter(7) [default: all]
    #[arg(short = 'f', long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// Write to this file, as pcapng (`-` is standard output); without it packets are printed
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Read packets from this capture instead of an instance
    #[arg(short = 'r', long = "read", value_name = "FILE", conflicts_with_all = ["name", "stage", "at"])]
    pub read: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Bytes of each packet that are captured; 0: all
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub snaplen: u32,
    /// Which direction
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    pub direction: Direction,
    /// Which instance; needed if there are several
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Where at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum At {
    /// As they come in
    Before,
    /// As they go on to the next stage
    After,
    /// Those that it drops, with the reason
    Drop,
    /// Those that rules of Ingress choose by `action sample`
    Sample,
}

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// From the devices
    In,
    /// To the devices
    Out,
    /// Both
    Both,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Way {
        match direction {
            Direction::In => Way::In,
            Direction::Out => Way::Out,
            Direction::Both => Way::Both,
        }
    }
}
