//! The ipop program.
fn main() {}
