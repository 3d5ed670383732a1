//! The options of `tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::doctor::args::{GoalArg, duration};

/// Change what the doctor advises, measure whether it helped, and undo it.
///
/// Every old value is in a journal on disk before it is changed. A change is claimed only when it reads
/// back, and undone only while the value is still the one that was set here; otherwise it has drifted,
/// and that is said. Without root a plan is shown, and nothing can be applied.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate tune plan
  linerate tune apply udp-rcvbuf --persist
  linerate tune apply R15 --until-clean
  linerate tune set --yes-flap ethtool -G eth0 rx 1024
  linerate tune verify
  linerate tune rollback

FINDING is the id or the name of a rule, as `linerate doctor` prints them; without one, all.

Exit status: 0 if all went well; 1 if something was refused, has drifted or did not help; 2 for wrong
usage or if nothing could be read.")]
pub struct TuneArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TuneCommand,
}

/// What `tune` does.
#[derive(Debug, Subcommand)]
pub enum TuneCommand {
    /// Show what would be changed, as a difference, with the risk of each change, and what is left to people
    Plan(PlanArgs),
    /// Change it
    Apply(ApplyArgs),
    /// Make one change, as you would type it
    Set(SetArgs),
    /// Measure whether what was applied helped
    Verify(PlanArgs),
    /// Show what is changed now
    List(JournalArgs),
    /// Let changes stay that would be undone without this word, because they may take a link down
    Keep(JournalArgs),
    /// Undo what was applied, the last first
    Rollback(RollbackArgs),
    /// Undo what may have taken a link down, unless it is kept in time
    #[command(name = "__undo", hide = true)]
    Undo(UndoArgs),
}

/// Where old values are kept, unless somebody says another place.
pub const JOURNAL: &str = "/var/lib/linerate/tune.journal";

/// Where the journal is.
#[derive(Debug, Clone, Args)]
pub struct JournalArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The file that old values are kept in
    #[arg(long, value_name = "FILE", default_value = JOURNAL)]
    pub journal: PathBuf,
    /// In another network namespace: a name of `ip netns`, the number of a process, or a path
    #[arg(long, value_name = "NAME|PID|PATH")]
    pub netns: Option<String>,
}

/// What is looked at, and for how long.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Findings, by id or name
    #[arg(value_name = "FINDING")]
    pub findings: Vec<String>,
    /// How long to look
    #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub period: Duration,
    /// What matters most on this host
    #[arg(long, value_enum, default_value_t = GoalArg::Throughput)]
    pub goal: GoalArg,
    #[command(flatten)]
    pub place: JournalArgs,
}

/// How to apply.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    #[command(flatten)]
    pub how: HowArgs,
    /// Double each value until the loss stops or something else gets worse; keep the smallest that held
    #[arg(long)]
    pub until_clean: bool,
    /// The most that --until-clean goes to, as a multiple of the old value
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=4096))]
    pub at_most: u64,
}

/// How careful to be, and for how long it shall hold.
#[derive(Debug, Clone, Args)]
pub struct HowArgs {
    /// Make changes that may cut the way to this host as well (a link goes down for a moment, packets are
    /// dropped); they are undone by themselves unless `linerate tune keep` is said
    #[arg(long)]
    pub yes_flap: bool,
    /// How long such a change waits for that word
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub keep_within: Duration,
    /// Write it into a file of ours as well, so that it survives a boot: /etc/sysctl.d/90-linerate.conf or
    /// /etc/udev/rules.d/90-linerate.rules; what waits for `keep` is written then
    #[arg(long)]
    pub persist: bool,
}

/// Make one change, as you would type it, with a journal and a way back.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  linerate tune set sysctl -w net.core.somaxconn=8192
  linerate tune set --persist 'echo 3 > /sys/class/net/eth0/queues/rx-0/rps_cpus'
  linerate tune set --yes-flap ethtool -G eth0 rx 1024
  linerate tune set ethtool -X eth0 weight 3 1
  linerate tune set --yes-flap ethtool -N eth0 flow-type udp4 dst-port 53 action 1 loc 5

No shell runs: the words are understood by linerate, and it makes the change itself.")]
pub struct SetArgs {
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub place: JournalArgs,
    /// sysctl -w NAME=VALUE, echo VALUE > FILE, ethtool -G|-L|-C|-K|-A|-X|-N ..., ip link set ..., tc qdisc
    /// replace ...; options of ours come before it
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub change: Vec<String>,
}

/// What to undo.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Numbers of the journal, ids or names of rules; without one, all
    #[arg(value_name = "NUMBER|FINDING")]
    pub which: Vec<String>,
    #[command(flatten)]
    pub place: JournalArgs,
}

/// What to undo by itself.
#[derive(Debug, Clone, Args)]
pub struct UndoArgs {
    /// From this number of the journal on
    #[arg(long)]
    pub from: u64,
    #[command(flatten)]
    pub place: JournalArgs,
}
