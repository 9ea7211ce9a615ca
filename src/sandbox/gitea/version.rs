//! What each version of Gitea, from 1.21 to 1.27, can do with runners.

/// What one version can do; a runner registers, declares and polls with all of them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// GET of a registration token: at three places below `actions/runners`, and for the instance at
    /// `/api/v1/admin/runners/registration-token`.
    pub(super) get_token: bool,
    /// POST of a registration token, at all four places.
    pub(super) post_token: bool,
    /// Runners are listed, shown and deleted.
    pub(super) manage: bool,
    /// Runners that end after one task; before, Register's wish for it is not heard.
    pub(super) ephemeral: bool,
    /// Runners are switched off, and answers tell which are.
    pub(super) disable: bool,
}

const NONE: Abilities = Abilities {
    get_token: false,
    post_token: false,
    manage: false,
    ephemeral: false,
    disable: false,
};

/// The versions in which something changed, 1.x each: what is between is as the one before.
const TABLE: [(u32, Abilities); 4] = [
    (21, NONE),
    (22, Abilities { get_token: true, ..NONE }),
    (24, Abilities { get_token: true, post_token: true, manage: true, ephemeral: true, ..NONE }),
    (26, Abilities { post_token: true, manage: true, ephemeral: true, disable: true, ..NONE }),
];

impl Abilities {
    /// Those of a version as `/api/v1/version` tells it: `1.24.6`, `1.26.0+dev-45-g193a24c30e`, or a
    /// derivative's `11.0.1+gitea-1.22.0`, where Gitea's own version counts.
    ///
    /// A development tree counts as the version before it, as what a version adds may not be in it yet;
    /// so does the tree of 1.26 that the recorded exchanges are from. What tells no version is as the
    /// latest, and what is older than 1.21 as that.
    pub(super) fn of(version: &str) -> Self {
        let (_, newest) = TABLE[TABLE.len() - 1];
        let Some((major, minor)) = parse(version) else { return newest };
        match major {
            0 => NONE,
            1 => {
                let known = TABLE.iter().rev().find(|(since, _)| *since <= minor);
                known.map_or(NONE, |(_, abilities)| *abilities)
            }
            _ => newest,
        }
    }
}

/// The major and minor version that count.
fn parse(version: &str) -> Option<(u32, u32)> {
    let own = version.split_once("+gitea-").map_or(version, |(_, gitea)| gitea);
    let mut numbers = own.trim_start_matches('v').split(['.', '+', '-']);
    let major = numbers.next()?.parse().ok()?;
    let minor: u32 = numbers.next()?.parse().ok()?;
    Some((major, if own.contains("+dev") { minor.saturating_sub(1) } else { minor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_in_many_ways() {
        for (text, version) in [
            ("1.21.11", Some((1, 21))),
            ("v1.24.0-rc0", Some((1, 24))),
            ("1.26.0+dev-45-g193a24c30e", Some((1, 25))),
            ("1.26.0+rc0", Some((1, 26))),
            ("11.0.1+gitea-1.22.0", Some((1, 22))),
            ("1.27", Some((1, 27))),
            ("development", None),
            ("", None),
        ] {
            assert_eq!(parse(text), version, "{text}");
        }
    }

    #[test]
    fn what_is_between_is_as_the_one_before() {
        let of = |minor: u32| Abilities::of(&format!("1.{minor}.3"));
        assert_eq!((of(20), of(21)), (NONE, NONE));
        assert_eq!(of(23), of(22));
        assert_eq!(of(25), of(24));
        assert_eq!((of(27), of(28)), (of(26), of(26)));
        assert_eq!((Abilities::of("2.0.0"), Abilities::of("development")), (of(26), of(26)));
    }
}
