//! `lvscope completions`, `lvscope man`: made from the command line itself.

use super::output::Output;
use super::{Cli, FINE, Failure};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

#[derive(Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(args: &Completions, out: &mut Output) -> Result<u8, Failure> {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lvscope", &mut script);
    out.write_all(&script)?;
    Ok(FINE)
}

pub(super) fn page(out: &mut Output) -> Result<u8, Failure> {
    let mut command = Cli::command();
    // Gives every subcommand its full name, `lvscope diagnose`.
    command.build();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for sub in command.get_subcommands() {
        clap_mangen::Man::new(sub.clone()).render(out)?;
    }
    Ok(FINE)
}
