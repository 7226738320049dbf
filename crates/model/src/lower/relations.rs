//! Checks between manifests.

use super::Written;
use crate::{config::Config, read::Cx};

/// Checks everything that needs more than one manifest.
pub(crate) fn check(_config: &Config, _written: &Written<'_>, _cx: &mut Cx<'_>) {}
