//! The runner file: what is in it, where it lies, and how it is replaced whole.

mod labels;
mod path;
mod runner_file;
mod write;

pub use labels::{MissingForms, full_labels, is_form};
pub use path::{PathError, Pattern, Target};
pub use runner_file::{NotARunnerFile, RunnerFile};
pub use write::{FileError, Owner, Removed, is_there, read, remove, root_exists, write};
