//! Policy: read and put in force.

use crate::domain::audit::Actor;
use crate::domain::network::Network;
use crate::domain::policy::{Compiled, Policy, PolicyError};
use crate::failure::{Code, Failure};
use crate::store::{PolicyInForce, PolicySet, StoreError};

use super::operator::{Operator, fault};

impl Operator {
    /// The policy in force in a network.
    ///
    /// # Errors
    ///
    /// `network.not-found`.
    pub async fn policy(&self, network: Option<&str>) -> Result<(Network, PolicyInForce), Failure> {
        let network = self.network(network).await?;
        let policy = self.store.policy(network.id).await.map_err(fault)?;
        Ok((network, policy))
    }

    /// What [`Operator::set_policy`] would do; changes nothing.
    ///
    /// # Errors
    ///
    /// `policy.too-large`, `policy.too-many-rules`.
    pub async fn preview_policy(
        &self,
        network: Option<&str>,
        policy: Policy,
    ) -> Result<PolicySet, Failure> {
        let network = self.check_policy(network, &policy).await?;
        self.store.preview_policy(network.id, policy).await.map_err(refused)
    }

    /// Puts a policy in force, while the version is the one that was read.
    ///
    /// # Errors
    ///
    /// `policy.too-large`, `policy.too-many-rules`, `policy.changed`.
    pub async fn set_policy(
        &self,
        network: Option<&str>,
        policy: Policy,
        if_version: Option<u64>,
        actor: Actor,
    ) -> Result<PolicySet, Failure> {
        let network = self.check_policy(network, &policy).await?;
        let set = self.store.set_policy(network.id, policy, if_version, self.by(actor)).await;
        set.map_err(refused)
    }

    /// Says what is too much, before the store finds out.
    async fn check_policy(
        &self,
        network: Option<&str>,
        policy: &Policy,
    ) -> Result<Network, Failure> {
        let network = self.network(network).await?;
        let compiled = self.store.policy(network.id).await.map_err(fault)?.compiled;
        let too_large = |error: PolicyError| Failure::new(Code::PolicyTooLarge, error.to_string());
        let numbering = compiled.numbering().renumber(policy).map_err(too_large)?;
        Compiled::new(policy.clone(), numbering).map_err(too_large)?;
        Ok(network)
    }
}

fn refused(error: StoreError) -> Failure {
    match error {
        StoreError::Changed(version) => {
            let message = format!("the policy was changed meanwhile, to version {version}");
            Failure::new(Code::PolicyChanged, message).param("version", version)
        }
        StoreError::TooManyRules { device, holds, needs } => {
            let message = format!("{device} holds {holds} rules, this policy gives it {needs}");
            Failure::new(Code::PolicyTooManyRules, message)
                .param("device", device)
                .param("holds", holds)
                .param("needs", needs)
        }
        other => fault(other),
    }
}
