//! The runner file: what is in it, where it lies, and how it is replaced whole.

pub mod labels;
pub mod path;
pub mod runner_file;
pub mod write;

pub use labels::{MissingForms, full_labels};
pub use path::{PathError, Pattern, Target};
pub use runner_file::{NotARunnerFile, RunnerFile};
pub use write::{FileError, Owner, Removed, remove, root_exists, write};
