//! The binary `loadgen`: see `loadgen --help`.

use std::process::ExitCode;

use clap::Parser;
use loadgen::Cli;

fn main() -> ExitCode {
    match loadgen::run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
