//! Without an API token, what Gitea knows a runner by that left is handed on to the next of its kind.
