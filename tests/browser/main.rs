//! The token page in a real browser.
fn main() {}
