//! Encoded resources, shared: what several proxies are told alike is encoded once and held once.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use envoy_types::pb::google::protobuf::Any;

use crate::{codec::CodecError, resource::ResourceKind};

/// Fewer than this are not worth a look for those that nobody holds any more.
const FEW: usize = 1024;

/// By kind and by the digest of what they say, their name among it.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    held: HashMap<(ResourceKind, [u8; 32]), Weak<Any>>,
    /// Size at which those that nobody holds are dropped.
    full: usize,
}

impl Bodies {
    /// The body of this digest; `encode` makes it if nobody holds it.
    pub fn get(
        &mut self,
        kind: ResourceKind,
        digest: [u8; 32],
        encode: impl FnOnce() -> Result<Any, CodecError>,
    ) -> Result<Arc<Any>, CodecError> {
        if let Some(body) = self.held.get(&(kind, digest)).and_then(Weak::upgrade) {
            return Ok(body);
        }
        let body = Arc::new(encode()?);
        if self.held.len() >= self.full.max(FEW) {
            self.held.retain(|_, body| body.strong_count() > 0);
            // Twice what is left: looking costs no more than what came since.
            self.full = self.held.len() * 2;
        }
        self.held.insert((kind, digest), Arc::downgrade(&body));
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Result<Any, CodecError> {
        Ok(Any { type_url: String::new(), value: text.as_bytes().to_vec() })
    }

    #[test]
    fn one_copy_is_held_as_long_as_somebody_holds_it() {
        let mut bodies = Bodies::default();
        let one = bodies.get(ResourceKind::Cluster, [1; 32], || body("a")).unwrap();
        let same = bodies.get(ResourceKind::Cluster, [1; 32], || body("never encoded")).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        let other = bodies.get(ResourceKind::Endpoints, [1; 32], || body("b")).unwrap();
        assert_ne!(one, other);
        drop((one, same));
        let again = bodies.get(ResourceKind::Cluster, [1; 32], || body("c")).unwrap();
        assert_eq!(again.value, b"c");
    }

    #[test]
    fn what_nobody_holds_does_not_pile_up() {
        let mut bodies = Bodies::default();
        let kept = bodies.get(ResourceKind::Cluster, [0; 32], || body("kept")).unwrap();
        for n in 1..=5 * FEW as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            bodies.get(ResourceKind::Cluster, digest, || body("gone")).unwrap();
        }
        assert!(bodies.held.len() <= FEW, "{}", bodies.held.len());
        let same = bodies.get(ResourceKind::Cluster, [0; 32], || body("never encoded")).unwrap();
        assert!(Arc::ptr_eq(&kept, &same));
    }
}
