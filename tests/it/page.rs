//! The token page over real sockets: who gets in, what each page carries, and what the forms do.

mod client;
mod pages;
mod session;
mod shape;
