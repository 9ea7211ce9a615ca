//! Random bytes, straight from the kernel: the cryptographic library's own generator gathers entropy for
//! a tenth of a second at its first use, on the thread that serves everyone.

use rustix::rand::{GetRandomFlags, getrandom};

/// An array of them.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .expect("the kernel gives up to 256 random bytes at once");
    bytes
}

/// `N` of them in hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> String {
    random::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As many as are asked for.
pub(super) fn random_bytes() -> impl FnMut() -> u8 {
    let mut buffer = [0; 64].into_iter();
    // The first is never handed out.
    buffer.nth(63);
    move || loop {
        if let Some(byte) = buffer.next() {
            return byte;
        }
        buffer = random::<64>().into_iter();
    }
}
