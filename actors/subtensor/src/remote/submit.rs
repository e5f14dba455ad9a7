//! One transaction from its making to what became of it.
//!
//! The proof is the chain, not the node's word: after sending, each block that is final is looked through for the
//! transaction's own bytes, and that block's events say whether it succeeded. Whatever the node answered to the sending,
//! or if it answered at all, the attempt has an end: its era. A transaction that is in none of the era's final blocks is
//! in none at all.

use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::{Block, subtensor::ChainError};
use serde::Deserialize;
use serde_json::Value;

use super::{
    connection::{Connection, RpcError, bytes, hash, hex},
    extrinsic::{Call, Context},
    outcome::{ALREADY_IMPORTED, ERA_EXPIRED, failed_in_block, in_block, refused_by_pool},
    runtime::Runtimes,
    state::{Header, finalized, hash_of, head_number, unreadable},
};

/// `twox128("System") ‖ twox128("Events")`, the one key that every chain of this kind has.
const EVENTS_KEY: &str = "0x26aa394eea5630e07c48ae0c9558cef780d41e5e16056765bc8461851072c9d7";

#[derive(Deserialize)]
struct BlockAnswer {
    block: BlockBody,
}

#[derive(Deserialize)]
struct BlockBody {
    header: Header,
    extrinsics: Vec<String>,
}

/// Signs a call, sends it once, and follows it to its end.
///
/// # Errors
/// See [`ChainError`]; `Unreachable` when it cannot be known yet whether it is in a block.
pub(crate) async fn submit(
    connection: &Connection,
    runtimes: &Runtimes,
    signer: &HotkeySigner,
    call: &Call,
) -> Result<Block, ChainError> {
    let lost = |error: RpcError| error.during(call.name);
    let (born_at, born_hash) = finalized(connection).await.map_err(lost)?;
    let nonce = next_nonce(connection, signer).await.map_err(lost)?;
    let genesis = connection.genesis().await.map_err(lost)?;
    // The runtime that will execute it is the one at the head.
    let head: String = connection.ask("chain_getBlockHash", &[]).await.map_err(lost)?;
    let runtime = runtimes.at(connection, &hash(&head).map_err(lost)?).await?;
    let context = Context { nonce, genesis, born_at, born_hash };
    let signed = call.sign(&runtime, &context, signer).map_err(|error| unreadable(call.name, error))?;
    let sent = hex(&signed);
    match connection.ask::<String>("author_submitExtrinsic", std::slice::from_ref(&sent)).await {
        Ok(_) => tracing::debug!(call = call.name, nonce, born_at, "sent"),
        Err(RpcError::Refused { code: ALREADY_IMPORTED, .. }) => {}
        Err(error @ RpcError::Refused { .. }) => {
            return Err(refused_by_pool(call.name, &error).unwrap_or_else(|| lost(error)));
        }
        // It may have arrived: the blocks will tell.
        Err(error) => tracing::warn!(call = call.name, %error, "no answer to a transaction; looking for it"),
    }
    follow(connection, runtimes, call.name, &sent, &context).await
}

/// Looks through the final blocks of the era.
async fn follow(
    connection: &Connection,
    runtimes: &Runtimes,
    call: &str,
    sent: &Value,
    context: &Context,
) -> Result<Block, ChainError> {
    let (mut seen, mut seen_hash) = (context.born_at, context.born_hash);
    loop {
        // What fails here is tried again: the caller's deadline and the era are the limits.
        match look(connection, call, sent, &mut seen, &mut seen_hash).await {
            Ok(Some((number, hash, index))) => {
                return judge(connection, runtimes, call, number, &hash, index).await;
            }
            Ok(None) if seen.saturating_add(1) >= context.dies_at() => {
                return Err(ChainError::RefusedByPool { call: call.to_owned(), name: ERA_EXPIRED.to_owned() });
            }
            Ok(None) => {}
            Err(RpcError::Unreadable(reason)) => return Err(unknown(call, reason)),
            Err(error) => tracing::debug!(call, %error, "looking for a transaction"),
        }
        connection.clock().sleep(connection.patience().poll).await;
    }
}

/// The final blocks that were not looked through yet: where the transaction is, if it is in one of them.
async fn look(
    connection: &Connection,
    call: &str,
    sent: &Value,
    seen: &mut u64,
    seen_hash: &mut [u8; 32],
) -> Result<Option<(u64, [u8; 32], u32)>, RpcError> {
    let (last, _) = finalized(connection).await?;
    let head = head_number(connection).await?;
    if last > head {
        let reason = format!("the node calls block {last} final, and its newest is {head}");
        return Err(RpcError::Unreachable(reason));
    }
    while *seen < last {
        let number = *seen + 1;
        let hash = hash_of(connection, number).await?;
        let found = connection.ask::<Option<BlockAnswer>>("chain_getBlock", &[hex(hash)]).await?;
        let BlockBody { header, extrinsics } =
            found.ok_or_else(|| RpcError::Unreachable(format!("the node does not have block {number} yet")))?.block;
        if self::hash(&header.parent_hash)? != *seen_hash {
            return Err(RpcError::Unreadable(format!(
                "final block {number} does not follow the final block {seen} shown before: nodes disagree about what is \
                 final, and {call} may be in a block or not"
            )));
        }
        if let Some(index) = extrinsics.iter().position(|extrinsic| Some(extrinsic.as_str()) == sent.as_str()) {
            let index = u32::try_from(index).map_err(|error| RpcError::Unreadable(error.to_string()))?;
            return Ok(Some((number, hash, index)));
        }
        (*seen, *seen_hash) = (number, hash);
    }
    Ok(None)
}

/// What the events of its block say. They were written by the runtime of the block before: an upgrade changes the
/// runtime at the end of a block.
async fn judge(
    connection: &Connection,
    runtimes: &Runtimes,
    call: &str,
    block: u64,
    block_hash: &[u8; 32],
    index: u32,
) -> Result<Block, ChainError> {
    loop {
        match events(connection, runtimes, block, block_hash).await {
            Ok((runtime, events)) => {
                let outcome = in_block(&runtime, &events, index).map_err(|error| unknown(call, error.to_string()))?;
                return outcome.map(|()| Block(block)).map_err(|name| failed_in_block(call, block, name));
            }
            Err(error @ ChainError::Unreachable { .. }) => tracing::debug!(call, %error, "reading a block's events"),
            Err(error) => return Err(unknown(call, error.to_string())),
        }
        connection.clock().sleep(connection.patience().poll).await;
    }
}

/// What was sent may be in a block, whatever could not be read since.
fn unknown(call: &str, reason: String) -> ChainError {
    ChainError::Unreachable { call: call.to_owned(), reason }
}

async fn events(
    connection: &Connection,
    runtimes: &Runtimes,
    block: u64,
    block_hash: &[u8; 32],
) -> Result<(std::sync::Arc<super::runtime::Runtime>, Vec<u8>), ChainError> {
    const CALL: &str = "the block's events";
    let lost = |error: RpcError| error.during(CALL);
    let before = hash_of(connection, block.saturating_sub(1)).await.map_err(lost)?;
    let runtime = runtimes.at(connection, &before).await?;
    let params = [EVENTS_KEY.into(), hex(block_hash)];
    let events: Option<String> = connection.ask("state_getStorage", &params).await.map_err(lost)?;
    let events = events.ok_or_else(|| lost(RpcError::Unreadable("the block has no events".to_owned())))?;
    Ok((runtime, bytes(&events).map_err(lost)?))
}

/// Counts what is in the pool too.
async fn next_nonce(connection: &Connection, signer: &HotkeySigner) -> Result<u64, RpcError> {
    let address = ss58::encode(&signer.hotkey());
    connection.ask("system_accountNextIndex", &[address.into()]).await
}
