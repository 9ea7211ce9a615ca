//! The client's address is the peer's, or one that only trusted proxies stand behind, and what is written
//! before an address that is not trusted changes nothing. The first byte chooses the peer; each line is a
//! header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::broker::forwarded::{client_address, is_within};

const PEERS: [&str; 4] = ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "192.0.2.1"];

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(peer) = PEERS[usize::from(*choice) % PEERS.len()].parse::<std::net::IpAddr>() else {
        return;
    };
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
    let client = client_address(peer, text.lines(), &trusted);
    assert_eq!(client, client.to_canonical());

    // What a header says is told here by asking for it alone, from a peer that is trusted.
    let alone =
        |entry| client_address(PEERS[0].parse().expect("one"), [entry].into_iter(), &trusted);
    let entries: Vec<&str> = text.lines().flat_map(|line| line.split(',')).collect();
    let mut reached = vec![peer.to_canonical()];
    for entry in entries.iter().rev() {
        if !reached.last().is_some_and(|last| is_within(*last, &trusted)) {
            break;
        }
        reached.push(alone(entry));
    }
    assert!(reached.contains(&client), "{client} is further left than {reached:?}");

    if !is_within(client, &trusted) {
        for invented in ["198.51.100.9, ", "10.0.0.9,", "junk,", "\n"] {
            let longer = format!("{invented}{text}");
            assert_eq!(client_address(peer, longer.lines(), &trusted), client);
        }
    }
});
