//! Where a runner file lies: `/runners/{name}/.runner` with the placeholders filled in. No I/O.

use std::path::PathBuf;

use thiserror::Error;

/// Longest component, so that the temporary file beside it has a name that file systems take.
const LONGEST: usize = 240;

/// The setting `credentials.path`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    root: PathBuf,
    /// At least one; the last is the file's.
    below: Vec<String>,
}

/// One runner file's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    root: PathBuf,
    below: Vec<String>,
}

/// Why there is no path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Relative.
    #[error("credentials.path {0:?} must begin with /")]
    Relative(String),
    /// Empty component, or one that walks.
    #[error(
        "credentials.path {0:?} must be plain: no // in it, no . or .. between slashes, no / at its end"
    )]
    Walks(String),
    /// A brace that is no placeholder.
    #[error("credentials.path {0:?} may hold {{name}}, {{id}} and {{uuid}}, and no other braces")]
    Placeholder(String),
    /// A component that is longer than file systems take whatever is filled in.
    #[error("credentials.path {0:?} has a part that is longer than {LONGEST} bytes: shorten it")]
    Long(String),
    /// A runner's name that may not be part of a path.
    #[error(
        "the runner's name {0:?} cannot be part of a path, so no runner file is written: \
         use letters, digits, dots, _ and -, and no dot in front"
    )]
    Name(String),
    /// An id or uuid that may not be part of a path.
    #[error("Gitea's {field} {value:?} cannot be part of a path, so no runner file is written")]
    Answered {
        /// `id` or `uuid`
        field: &'static str,
        /// What Gitea answered.
        value: String,
    },
    /// A component longer than file systems take.
    #[error("the file name {0:?} is too long, so no runner file is written: use a shorter name")]
    TooLong(String),
}

impl Pattern {
    /// Reads the setting.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let path = text.strip_prefix('/').ok_or_else(|| PathError::Relative(text.into()))?;
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
            return Err(PathError::Walks(text.into()));
        }
        // Checked with stand-ins, so that filling in fails for the runner's values alone.
        for part in &parts {
            let plain = fill(part, "n", "1", "u");
            if plain.contains(['{', '}']) {
                return Err(PathError::Placeholder(text.into()));
            }
            if plain.len() > LONGEST {
                return Err(PathError::Long(text.into()));
            }
        }
        let fixed = parts.iter().take_while(|part| !part.contains('{')).count();
        // A fixed path has its file's folder for a root.
        let (root, below) = parts.split_at(fixed.min(parts.len() - 1));
        Ok(Self {
            root: format!("/{}", root.join("/")).into(),
            below: below.iter().map(ToString::to_string).collect(),
        })
    }

    /// The folder that must be there for files to be written: all before the first placeholder's component, or
    /// the folder of a fixed path.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// Fills in one runner's values.
    ///
    /// # Errors
    /// A value that is used cannot be part of a path.
    pub fn expand(&self, name: &str, id: i64, uuid: &str) -> Result<Target, PathError> {
        let id = id.to_string();
        let uses = |placeholder: &str| self.below.iter().any(|part| part.contains(placeholder));
        if uses("{name}") && !is_plain(name) {
            return Err(PathError::Name(name.into()));
        }
        for (placeholder, field, value) in [("{id}", "id", &*id), ("{uuid}", "uuid", uuid)] {
            if uses(placeholder) && (!is_plain(value) || value.starts_with('-')) {
                return Err(PathError::Answered { field, value: value.into() });
            }
        }
        let below: Vec<String> =
            self.below.iter().map(|part| fill(part, name, &id, uuid)).collect();
        match below.iter().find(|part| part.len() > LONGEST) {
            Some(part) => Err(PathError::TooLong(part.clone())),
            None => Ok(Target { root: self.root.clone(), below }),
        }
    }
}

impl Target {
    /// A file at a fixed path, relative to the working folder of now; `None` where the path ends with no
    /// file name, or is not UTF-8.
    #[must_use]
    pub fn of_file(path: &std::path::Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let name = path.file_name()?.to_str().filter(|name| name.len() <= LONGEST)?;
        Some(Self { root: path.parent()?.into(), below: vec![name.into()] })
    }

    /// The folder that may be reached through links; below it none is followed.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// Folders from the root down, then the file's name.
    pub(super) fn folders_and_file(&self) -> (&[String], &str) {
        match self.below.split_last() {
            Some((file, folders)) => (folders, file),
            // A pattern has one component at least.
            None => (&[], ""),
        }
    }

    /// The whole path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.below.iter().fold(self.root.clone(), |path, part| path.join(part))
    }
}

fn fill(part: &str, name: &str, id: &str, uuid: &str) -> String {
    part.replace("{id}", id).replace("{uuid}", uuid).replace("{name}", name)
}

/// Letters, digits, dots, `_` and `-`, and no dot in front.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with('.')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn expand(pattern: &str, name: &str) -> Result<(PathBuf, PathBuf), PathError> {
        let target = Pattern::parse(pattern)?.expand(name, 7, "u-1")?;
        Ok((target.root().into(), target.path()))
    }

    #[test]
    fn roots_end_before_the_first_placeholder() {
        for (pattern, root, path) in [
            ("/runners/{name}/.runner", "/runners", "/runners/b-1/.runner"),
            ("/srv/x/r-{id}.json", "/srv/x", "/srv/x/r-7.json"),
            ("/{uuid}/{name}/f", "/", "/u-1/b-1/f"),
            ("/data/.runner", "/data", "/data/.runner"),
            ("/.runner", "/", "/.runner"),
        ] {
            assert_eq!(expand(pattern, "b-1").unwrap(), (root.into(), path.into()), "{pattern}");
            assert_eq!(Pattern::parse(pattern).unwrap().root(), Path::new(root));
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_make_no_path() {
        for name in ["", ".", "..", ".hidden", "a/b", "/etc", "a\0b", "a b", "ü", "a\n", "{uuid}"]
        {
            assert_eq!(expand("/r/{name}/f", name), Err(PathError::Name(name.into())), "{name:?}");
        }
        // A name that is not part of the path may be any.
        assert!(expand("/data/.runner", "../x").is_ok());
        let pattern = Pattern::parse("/r/{id}/{uuid}").unwrap();
        assert!(matches!(
            pattern.expand("n", -1, "u"),
            Err(PathError::Answered { field: "id", .. })
        ));
        assert!(matches!(
            pattern.expand("n", 1, "../u"),
            Err(PathError::Answered { field: "uuid", .. })
        ));
        let long = "n".repeat(300);
        assert_eq!(expand("/r/{name}", &long), Err(PathError::TooLong(long)));
    }

    #[test]
    fn patterns_are_checked() {
        for pattern in
            ["runners/{name}", "", "/r/{name}/", "/r//f", "/r/../f", "/r/{nom}", "/r/{", "/r/}x"]
        {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
        let long = "x".repeat(LONGEST);
        assert!(Pattern::parse(&format!("/r/{long}/f")).is_ok());
        for pattern in [format!("/r/{long}x/f"), format!("/r/{{name}}{long}"), format!("/{long}x")]
        {
            let error = Pattern::parse(&pattern).unwrap_err();
            assert!(error.to_string().starts_with("credentials.path"), "{error}");
        }
    }

    #[test]
    fn a_file_is_found_where_it_is_said_to_be() {
        let target = Target::of_file(Path::new("/data/x/.runner")).unwrap();
        assert_eq!(target.root(), Path::new("/data/x"));
        assert_eq!(target.path(), Path::new("/data/x/.runner"));
        let here = Target::of_file(Path::new(".runner")).unwrap();
        assert_eq!(here.path(), std::env::current_dir().unwrap().join(".runner"));
        for no_file in ["", "/", "/data/.."] {
            assert_eq!(Target::of_file(Path::new(no_file)), None, "{no_file:?}");
        }
    }

    proptest! {
        #[test]
        fn no_result_leaves_the_root(
            pattern in "/([a-z./{}]|\\{name\\}|\\{id\\}|\\{uuid\\}){0,12}",
            name in "[a-z./\\\\\0{} -]{0,8}|\\PC{0,8}",
            id: i64,
            uuid in "[a-f./-]{0,8}",
        ) {
            let target = Pattern::parse(&pattern).and_then(|p| p.expand(&name, id, &uuid));
            if let Ok(target) = target {
                let path = target.path();
                let below = path.strip_prefix(target.root()).unwrap();
                prop_assert!(below.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(below.components().next().is_some());
                prop_assert!(!path.to_str().unwrap().contains("/../"));
                prop_assert_eq!(below.components().count(), target.below.len());
            }
        }
    }
}
