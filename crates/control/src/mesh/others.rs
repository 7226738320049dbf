//! What other control planes over the same store did, taken over.

use std::{collections::BTreeMap, sync::Arc};

use model::config::RecoveryPlan;

use super::{Failure, Mesh, PlanSwitches, sources};
use crate::compile::Change;

impl Mesh {
    /// Takes over manifests and placements.
    pub(crate) async fn follow_configuration(&self) -> Result<(), Failure> {
        let _order = self.changing.lock().await;
        let (revision, placements) = (self.store.latest().await?, self.store.placements().await?);
        let mut state = self.state();
        let news = revision.filter(|revision| revision.number != state.revision);
        if news.is_none() && placements == *state.placements {
            return Ok(());
        }
        let mut change = Change::between(&state.placements, &placements);
        state.placements = Arc::new(placements);
        if let Some(revision) = &news {
            match model::parse(&sources(&revision.files)) {
                Ok(parsed) => state.config = Some(Arc::new(parsed.config)),
                Err(problems) => tracing::error!(
                    revision = revision.number,
                    problems = problems.len(),
                    "manifests that another control plane applied are not accepted here; run the same version everywhere"
                ),
            }
            state.revision = revision.number;
            change = Change::Everything;
        }
        self.publish(&mut state, &change);
        drop(state);
        self.changed();
        if let Some(revision) = &news {
            self.say_applied(revision);
        }
        Ok(())
    }

    /// Takes over where the leader's recovery stands: the routing controls that are compiled into snapshots, which recovery
    /// itself derives from what is stored.
    pub(crate) async fn follow_recovery<Saved: serde::de::DeserializeOwned>(
        &self,
        switches_of: fn(&RecoveryPlan, Saved) -> PlanSwitches,
    ) -> Result<(), Failure> {
        let stored = self.store.recovery::<Saved>().await?;
        let mut state = self.state();
        let Some(config) = state.config.clone() else { return Ok(()) };
        let mut switches = BTreeMap::new();
        for (name, saved) in stored {
            if let Some((name, plan)) = config.plans.iter().find(|(plan, _)| plan.as_str() == name) {
                let of_plan = switches_of(plan, saved);
                if !of_plan.is_empty() {
                    switches.insert(name.clone(), of_plan);
                }
            }
        }
        if state.switches != switches {
            state.switches = switches;
            self.publish(&mut state, &Change::Everything);
        }
        Ok(())
    }
}
