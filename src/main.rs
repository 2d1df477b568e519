//! The `lvscope` program; everything it does is in the library.

fn main() -> std::process::ExitCode {
    lvscope::cli::run()
}
