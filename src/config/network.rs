//! Lists, networks and names of headers.

use std::net::IpAddr;

use config::ValueKind;
use hyper::header::{self, HeaderName};
use ipnet::{IpNet, Ipv4Net};

use super::value::Setting;

/// Several values: an array in the file, and made one of text that is separated by commas elsewhere.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T: Setting> Setting for List<T> {
    fn parse(text: &str) -> Result<Self, String> {
        Err(format!("{text:?} is no list: put it in brackets, [{text:?}]"))
    }

    fn show(&self) -> String {
        if self.0.is_empty() {
            return "(none)".into();
        }
        self.0.iter().map(Setting::show).collect::<Vec<_>>().join(",")
    }

    fn read(kind: ValueKind) -> Result<Self, String> {
        let values = match kind {
            ValueKind::Array(values) => values,
            ValueKind::String(text) => return Self::parse(&text),
            _ => return Err("is no list: give texts in brackets, [\"…\", \"…\"]".into()),
        };
        let (mut items, mut wrong) = (Vec::new(), Vec::new());
        for value in values {
            match T::read(value.kind) {
                Ok(item) => items.push(item),
                Err(message) => wrong.push(message),
            }
        }
        if wrong.is_empty() { Ok(Self(items)) } else { Err(wrong.join("; ")) }
    }
}

/// A network, or an address as the network of itself.
impl Setting for IpNet {
    fn parse(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(Self::from);
        let network = text.parse().or_else(|_| address()).map_err(|_| {
            format!(
                "{text:?} is no network: give an address, or one with the length of its prefix, \
                 for example 10.0.0.0/8"
            )
        })?;
        let network = unmapped(network);
        if network == network.trunc() {
            Ok(network)
        } else {
            Err(format!(
                "{text:?} is an address within a network: give {} for the network, or {} for that \
                 address alone",
                network.trunc(),
                network.addr()
            ))
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Peers are told apart as IPv4 or IPv6: none is in a network of IPv4 addresses that are written as IPv6.
fn unmapped(network: IpNet) -> IpNet {
    let v4 = || {
        let IpNet::V6(v6) = network else { return None };
        let prefix = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(v6.addr().to_ipv4_mapped()?, prefix).ok()
    };
    v4().map_or(network, IpNet::V4)
}

impl Setting for HeaderName {
    fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "for example X-WebAuth-User";
        let name: Self = text
            .parse()
            .map_err(|_| format!("{text:?} is no name of a header: give one, {EXAMPLE}"))?;
        let taken = [header::AUTHORIZATION, header::COOKIE, header::HOST];
        if taken.contains(&name) || name == "x-forwarded-for" {
            return Err(format!("{text:?} has a meaning of its own: give another one, {EXAMPLE}"));
        }
        Ok(name)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::{reads, refuses};
    use super::*;

    #[test]
    fn networks() {
        reads::<IpNet>("10.0.0.0/8", "10.0.0.0/8");
        reads::<IpNet>("0.0.0.0/0", "0.0.0.0/0");
        reads::<IpNet>("192.0.2.7", "192.0.2.7/32");
        reads::<IpNet>("2001:db8::/32", "2001:db8::/32");
        reads::<IpNet>("::1", "::1/128");
        reads::<IpNet>("::ffff:192.0.2.7", "192.0.2.7/32");
        reads::<IpNet>("::ffff:10.0.0.0/104", "10.0.0.0/8");
        refuses::<IpNet>(
            &["", "proxy", "10.0.0.0/33", "10.0/8", "10.0.0.0/", "::/129", "10.0.0.1:80", " ::1"],
            "is no network",
        );
        refuses::<IpNet>(&["10.0.0.1/8"], "give 10.0.0.0/8 for the network, or 10.0.0.1 for that");
        refuses::<IpNet>(&["2001:db8::1/32"], "give 2001:db8::/32 for the network, or 2001:db8::1");
    }

    #[test]
    fn headers() {
        reads::<HeaderName>("X-WebAuth-User", "x-webauth-user");
        refuses::<HeaderName>(&["", "a b", "x:", "\u{e9}"], "is no name of a header");
        refuses::<HeaderName>(
            &["Authorization", "cookie", "HOST", "X-Forwarded-For"],
            "has a meaning of its own",
        );
    }
}
