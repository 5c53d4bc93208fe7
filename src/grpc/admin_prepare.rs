//! `chat-admin bench prepare`: accounts for a test cluster, many at a time, under one password hash.

use super::errors::status;
use crate::proto::admin as proto;
use crate::replica::Handle;
use crate::service::{Password, Service, ServiceError};
use crate::state_machine::PasswordHash;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

/// Accounts on the way to the log at once.
const AT_ONCE: usize = 512;
/// Accounts between two words to the client.
const TELL_EVERY: u64 = 4_096;

type Told = mpsc::Sender<Result<proto::PrepareAccountsResponse, Status>>;

/// Creates them, and says how far it is. Ends early if nobody listens any more.
pub(super) async fn accounts(
    service: Service<Handle>,
    request: proto::PrepareAccountsRequest,
    told: Told,
) {
    // Nobody listens any more: then nobody is told of an error either.
    if let Err(error) = create(&service, &request, &told).await {
        let _ = told.send(Err(status(&error))).await;
    }
}

async fn create(
    service: &Service<Handle>,
    request: &proto::PrepareAccountsRequest,
    told: &Told,
) -> Result<(), ServiceError> {
    let hash = service
        .hash_password(&Password(request.password.clone()))
        .await?;
    let mut tasks = JoinSet::new();
    let mut done = 0;
    let mut numbers = request.first..request.first.saturating_add(request.count);
    loop {
        while tasks.len() < AT_ONCE
            && let Some(number) = numbers.next()
        {
            let name = format!("{}{number:07}", request.prefix);
            tasks.spawn(one(service.clone(), name, hash.clone()));
        }
        let Some(created) = tasks.join_next().await else {
            break;
        };
        created.map_err(|_| ServiceError::internal("an account's creation was interrupted"))??;
        done += 1;
        let tell = done % TELL_EVERY == 0 || done == request.count;
        let answer = proto::PrepareAccountsResponse { done };
        if tell && told.send(Ok(answer)).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn one(
    service: Service<Handle>,
    name: String,
    hash: PasswordHash,
) -> Result<(), ServiceError> {
    service.create_prepared(&name, &hash).await
}
