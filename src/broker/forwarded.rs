//! Whose call it is when proxies stand in between.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The address of the client behind the proxies that are trusted. `forwarded` are the values of
/// `X-Forwarded-For`, line by line; each proxy adds at the end the address that called it.
///
/// Read from the end: the first address that is no trusted proxy's is the client's, and what stands
/// before it may be the client's own invention, and no text at all. What is no address ends the reading
/// at the last good one.
pub fn client_address<'a, Line: AsRef<[u8]> + ?Sized + 'a>(
    peer: IpAddr,
    forwarded: impl Iterator<Item = &'a Line>,
    trusted: &[IpNet],
) -> IpAddr {
    let lines: Vec<&[u8]> = forwarded.map(AsRef::as_ref).collect();
    let mut entries = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    let mut client = peer.to_canonical();
    while is_within(client, trusted) {
        let Some(address) = entries.next().and_then(address) else { break };
        client = address;
    }
    client
}

/// Whether an address is in one of the networks. An IPv4 address may be written as IPv6.
#[must_use]
pub fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// An address, perhaps with a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = || entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let found = bare().or_else(with_port).or_else(|| in_brackets().map(IpAddr::V6));
    found.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client<Line: AsRef<[u8]> + ?Sized>(peer: &str, lines: &[&Line]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), lines.iter().copied(), &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client::<str>("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_the_client_invents_is_not_read() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["10.0.0.9, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.7,10.0.0.2"]), "198.51.100.7");
    }

    /// Were such a line passed over, the one before it would be read, or the proxy taken for the client.
    #[test]
    fn what_is_no_text_hides_nothing() {
        assert_eq!(
            client("10.0.0.1", &[&b"203.0.113.9"[..], b"\xff, 198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(client("10.0.0.1", &[&b"203.0.113.9"[..], b"\xff"]), "10.0.0.1");
    }

    #[test]
    fn where_all_are_proxies_it_is_the_first_of_them() {
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn junk_ends_the_reading_at_the_last_good_address() {
        for junk in
            ["unknown", "", "198.51.100.7.5", "[::1", "fe80::1%eth0", "_hidden", "1.2.3.4:x"]
        {
            let line = format!("198.51.100.7, {junk}, 10.0.0.2");
            assert_eq!(client("10.0.0.1", &[&line]), "10.0.0.2", "{junk:?}");
            assert_eq!(client("10.0.0.1", &["198.51.100.7", junk]), "10.0.0.1", "{junk:?}");
        }
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_the_address() {
        for (written, read) in [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            (" 2001:db8::7\t", "2001:db8::7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
        ] {
            assert_eq!(client("fd00::1", &[written]), read);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_before_the_client_matters(before in "[^\\r\\n]{0,60}") {
            let line = format!("{before},198.51.100.7");
            prop_assert_eq!(client("10.0.0.1", &[&line]), "198.51.100.7");
            prop_assert_eq!(client("10.0.0.1", &[&*before, "198.51.100.7"]), "198.51.100.7");
        }
    }
}
