//! Lists and networks, and what depends on them.

use std::time::Duration;

use ipnet::IpNet;

use super::{Case, origin};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn lists_are_arrays_in_the_file_and_text_with_commas_elsewhere() {
    let case = Case::minimal()
        .toml(
            "[listen]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n\
             [admin]\ntrusted_proxies = []\nallow_cidrs = [\"192.0.2.1\"]\n",
        )
        .env("RUNNER_BROKER__ADMIN__ALLOW_CIDRS", "192.0.2.0/24, 2001:db8::/32");
    let loaded = case.good();
    assert_eq!(loaded.settings.listen.trusted_proxies, nets(&["10.0.0.0/8", "::1/128"]));
    assert_eq!(loaded.settings.admin.trusted_proxies, []);
    let two = nets(&["192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(loaded.settings.admin.allow_cidrs, two);
    assert_eq!(origin(&loaded, "admin.allow_cidrs"), "variable RUNNER_BROKER__ADMIN__ALLOW_CIDRS");
    let value = |key: &str| loaded.used.iter().find(|used| used.key == key).unwrap().value.clone();
    assert_eq!(value("listen.trusted_proxies"), "10.0.0.0/8,::1/128");
    assert_eq!(value("admin.trusted_proxies"), "(none)");
    let none = case.set("admin.allow_cidrs", "").good();
    assert_eq!(none.settings.admin.allow_cidrs, []);
}

#[test]
fn all_that_is_wrong_in_a_list_is_told() {
    let case = Case::minimal()
        .toml(
            "[listen]\ntrusted_proxies = \"10.0.0.0/8\"\n\
             [admin]\ntrusted_proxies = [10, \"proxy\"]\n",
        )
        .set("admin.allow_cidrs", "10.1.0.0/8,");
    assert_eq!(
        case.bad(),
        [
            "listen.trusted_proxies (file DIR/config.toml): \"10.0.0.0/8\" is no list: put it in \
             brackets, [\"10.0.0.0/8\"]",
            "admin.trusted_proxies (file DIR/config.toml): is no text: put it in quotes; \"proxy\" is \
             no network: give an address, or one with the length of its prefix, for example \
             10.0.0.0/8",
            "admin.allow_cidrs (flag --set): \"10.1.0.0/8\" is an address within a network: give \
             10.0.0.0/8 for the network, or 10.1.0.0 for that address alone; \"\" is no network: give \
             an address, or one with the length of its prefix, for example 10.0.0.0/8",
        ]
    );
    Case::minimal().toml("[admin]\nallow_cidrs = true\n").complains(
        "admin.allow_cidrs (file DIR/config.toml): is no list: give texts in brackets, [\"…\", \"…\"]",
    );
}

#[test]
fn a_user_header_is_believed_from_trusted_proxies_alone() {
    let case = Case::minimal().set("admin.user_header", "X-WebAuth-User");
    case.complains(
        "admin.user_header (flag --set): is believed from trusted proxies alone: set \
         admin.trusted_proxies too, or leave it out",
    );
    let case = case.set("admin.trusted_proxies", "10.0.0.1");
    assert_eq!(case.good().settings.admin.user_header.unwrap(), "x-webauth-user");
    case.set("admin.user_header", "Authorization").complains(
        "admin.user_header (flag --set): \"Authorization\" has a meaning of its own: give another \
         one, for example X-WebAuth-User",
    );
    // Proxies that are wrong are missing for another reason, which is told.
    let case = Case::minimal().set("admin.user_header", "X-User");
    let bad = case.set("admin.trusted_proxies", "proxy").bad();
    assert!(bad.len() == 1 && bad[0].starts_with("admin.trusted_proxies "), "{bad:?}");
}

#[test]
fn people_name_the_page_as_runners_name_the_broker() {
    let case = Case::minimal().set("admin.public_url", "https://example.com/runners//");
    let url = case.good().settings.admin.public_url.unwrap();
    assert_eq!(url.to_string(), "https://example.com/runners");
    case.set("admin.public_url", "example.com").complains(
        "admin.public_url (flag --set): \"example.com\" is no web address: give http:// or \
         https://, for example http://gitea:3000",
    );
}

#[test]
fn events_are_kept_for_a_time_that_makes_sense() {
    let keep = |text: &str| Case::minimal().set("store.keep_events", text);
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(Case::minimal().good().settings.store.keep_events, 90 * day);
    assert_eq!(keep("1h").good().settings.store.keep_events, day / 24);
    keep("10years").good();
    for (text, shown) in [("59m 59s", "59m 59s"), ("3653d", "3653days")] {
        keep(text).complains(&format!(
            "store.keep_events (flag --set): {shown} is not within 1h and 10years: set a time that \
             is, for example 90days"
        ));
    }
}
