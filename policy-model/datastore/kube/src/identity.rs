//! By which identity the API server knows whoever uses this store.

use crate::store::KubeStore;
use http::Method;
use policy_model_datastore::DatastoreError;
use serde_json::{Value, json};

impl KubeStore {
    /// The UID of the service account whose credentials are used; none where they are nobody's service account.
    ///
    /// Asked of the API server, which everybody may, and not read from the token: a token's form is its issuer's
    /// matter.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] or [`DatastoreError::Permission`].
    pub async fn service_account_uid(&self) -> Result<Option<String>, DatastoreError> {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let asked = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let answer = self
            .api()
            .write(Method::POST, path, "application/json", &asked)
            .await;
        let answer = answer.map_err(|error| error.during("ask who we are"))?;
        Ok(account_uid(&answer))
    }
}

/// The UID in a review, if it is a service account's.
fn account_uid(review: &Value) -> Option<String> {
    let user = review.pointer("/status/userInfo")?;
    let name = user.get("username").and_then(Value::as_str)?;
    let uid = user.get("uid").and_then(Value::as_str)?;
    (name.starts_with("system:serviceaccount:") && !uid.is_empty()).then(|| uid.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_account_has_an_identity_here() {
        let review =
            |name: &str, uid: &str| json!({ "status": { "userInfo": { "username": name, "uid": uid } } });
        let account = "system:serviceaccount:manx-system:manx-node";
        assert_eq!(account_uid(&review(account, "1-2")), Some("1-2".to_owned()));
        assert_eq!(account_uid(&review(account, "")), None);
        assert_eq!(account_uid(&review("admin", "1")), None);
        assert_eq!(account_uid(&json!({ "status": {} })), None);
    }
}
