//! The program: parse, load the configuration, dispatch. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    openvalidators::main()
}
