//! `linerate completions` and `linerate man`: from the same definition as `--help`.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::print;

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "linerate", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints the manual page, or writes those of all commands.
pub fn man(args: &ManArgs) -> ExitCode {
    let mut root = Cli::command();
    root.build();
    let done = match &args.dir {
        Some(dir) => write_all(dir, &root),
        None => page(&root).map(|text| print(&text)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("linerate man: {e}");
            ExitCode::FAILURE
        }
    }
}

fn page(command: &Command) -> io::Result<String> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// One file a command: `linerate.1`, `linerate-run.1` …
fn write_all(dir: &Path, command: &Command) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    for sub in shown {
        write_all(dir, sub)?;
    }
    Ok(())
}
