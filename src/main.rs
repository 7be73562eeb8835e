use std::process::ExitCode;

fn main() -> ExitCode {
    dealrank::cli::main()
}
