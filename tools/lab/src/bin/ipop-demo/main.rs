//! The demo of `ipop`: two gateways with a bridge and a container each, and the story of IPOP's switchmode page, step by
//! step, with every claim checked. `tools/demo` builds and runs it.

mod page;
mod story;

use std::process::ExitCode;

use ipop_lab::{Error, clean_stale, exists, interrupt, ipop_available, tear_down};

use page::Page;

/// The name of the demo's run: `--down` finds it again by this.
const RUN: &str = "ipop-demo";

const USAGE: &str = "\
Usage: tools/demo [--keep]   run the demo; with --keep leave gateways and containers up
       tools/demo --down     take down what --keep (or a killed demo) left";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keep = match arguments[..] {
        [] => false,
        ["--keep"] => true,
        ["--down"] => return down(),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(reason) = ipop_available() {
        eprintln!("The demo cannot run: {reason}.");
        return ExitCode::FAILURE;
    }
    if exists(RUN) {
        eprintln!("A demo is up already, or one was killed. Take it down with: tools/demo --down");
        return ExitCode::FAILURE;
    }
    let page = Page::new();
    let told = interrupt::install().and_then(|()| clean_stale()).and_then(|_removed| story::tell(&page, keep));
    match told {
        // What `tell` built is dropped by now.
        Ok(()) if keep => ExitCode::SUCCESS,
        Ok(()) if exists(RUN) => {
            page.failure("something of the demo is still there; try tools/demo --down");
            ExitCode::FAILURE
        }
        Ok(()) => {
            page.check("namespaces, containers, processes and files of the demo are gone");
            ExitCode::SUCCESS
        }
        Err(Error::Interrupted) => {
            page.failure("interrupted; everything was taken down");
            ExitCode::from(130)
        }
        Err(error) => {
            page.failure(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn down() -> ExitCode {
    if !exists(RUN) {
        println!("No demo is up.");
        return ExitCode::SUCCESS;
    }
    match tear_down(RUN) {
        Ok(()) => {
            println!("The demo's namespaces, containers and files are gone.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("Taking the demo down failed: {error}");
            ExitCode::FAILURE
        }
    }
}
