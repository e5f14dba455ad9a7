//! The chain's two ways of no, by the runtime's names.

use openvalidators_messages::{Block, subtensor::ChainError};
use scale_info::PortableRegistry;

use super::{
    connection::RpcError,
    runtime::Runtime,
    scale::{Fields, Unreadable, cut, cut_length, variant},
};

/// Most events of one block that are read; mainnet's blocks have hundreds.
const MAX_EVENTS: usize = 65_536;

/// `CustomTransactionError` of the pallet (spec 425): the numbers behind the pool's "Custom error". Metadata does not tell
/// them.
const CUSTOM: [&str; 28] = [
    "ColdkeyInSwapSchedule",
    "StakeAmountTooLow",
    "BalanceTooLow",
    "SubnetNotExists",
    "HotkeyAccountDoesntExist",
    "NotEnoughStakeToWithdraw",
    "RateLimitExceeded",
    "InsufficientLiquidity",
    "SlippageTooHigh",
    "TransferDisallowed",
    "HotKeyNotRegisteredInNetwork",
    "InvalidIpAddress",
    "ServingRateLimitExceeded",
    "InvalidPort",
    "ZeroMaxAmount",
    "InvalidRevealRound",
    "CommitNotFound",
    "CommitBlockNotInRevealRange",
    "InputLengthsUnequal",
    "UidNotFound",
    "EvmKeyAssociateRateLimitExceeded",
    "ColdkeySwapDisputed",
    "InvalidRealAccount",
    "FailedShieldedTxParsing",
    "InvalidShieldedTxPubKeyHash",
    "NonAssociatedColdKey",
    "DelegateTakeTooLow",
    "DelegateTakeTooHigh",
];

/// What the node says in `data` of error 1010, and the names of `InvalidTransaction` behind it.
const INVALID: [(&str, &str); 7] = [
    ("outdated", "Stale"),
    ("bad signature", "BadProof"),
    ("ancient birth block", "AncientBirthBlock"),
    ("valid in the future", "Future"),
    ("exhaust", "ExhaustsResources"),
    ("pay some fees", "Payment"),
    ("not expected", "Call"),
];

/// The transaction ended in neither a block nor an answer before its era was over: it can not be included any more.
pub(crate) const ERA_EXPIRED: &str = "EraExpired";

/// Codes of `author_submitExtrinsic` (`sc-rpc-api`), in order: 1010 and up.
const INVALID_TRANSACTION: i32 = 1010;
const UNKNOWN_VALIDITY: i32 = 1011;
const TEMPORARILY_BANNED: i32 = 1012;
pub(crate) const ALREADY_IMPORTED: i32 = 1013;
const TOO_LOW_PRIORITY: i32 = 1014;
const IMMEDIATELY_DROPPED: i32 = 1016;

/// The pool's refusal by name; nothing when the node refused for a reason of its own, or did not answer.
pub(crate) fn refused_by_pool(call: &str, error: &RpcError) -> Option<ChainError> {
    let RpcError::Refused { code, message, data } = error else { return None };
    let name = match *code {
        INVALID_TRANSACTION => invalid(message, data),
        UNKNOWN_VALIDITY => "UnknownTransactionValidity".to_owned(),
        TEMPORARILY_BANNED => "TemporarilyBanned".to_owned(),
        TOO_LOW_PRIORITY => "PriorityTooLow".to_owned(),
        IMMEDIATELY_DROPPED => "ImmediatelyDropped".to_owned(),
        _ => return None,
    };
    Some(ChainError::RefusedByPool { call: call.to_owned(), name })
}

fn invalid(message: &str, data: &str) -> String {
    let said = if data.is_empty() { message } else { data };
    if let Some((_, number)) = said.split_once("Custom error:") {
        let number = number.trim().trim_end_matches(|end: char| !end.is_ascii_digit());
        let name = number.parse::<usize>().ok().and_then(|number| CUSTOM.get(number));
        return name.map_or_else(|| format!("Custom({number})"), |name| (*name).to_owned());
    }
    let lower = said.to_lowercase();
    let known = INVALID.iter().find(|(words, _)| lower.contains(words));
    known.map_or_else(|| said.to_owned(), |(_, name)| (*name).to_owned())
}

/// What a block's events say of one of its transactions: success, or the name of the error.
///
/// # Errors
/// When the events cannot be read, or say neither.
pub(crate) fn in_block<'a>(
    runtime: &'a Runtime,
    events: &'a [u8],
    transaction: u32,
) -> Result<Result<(), String>, Unreadable> {
    use frame_decode::storage::StorageTypeInfo;
    let (metadata, types) = (runtime.metadata(), runtime.metadata().types());
    let info = metadata.storage_info("System", "Events").map_err(|error| Unreadable(error.to_string()))?;
    runtime.check_type(info.value_id)?;
    let record = types.resolve(info.value_id).and_then(|ty| match &ty.type_def {
        scale_info::TypeDef::Sequence(records) => Some(records.type_param.id),
        _ => None,
    });
    let record = record.ok_or_else(|| Unreadable("System.Events is no list".to_owned()))?;
    let mut rest = events;
    let length = cut_length(&mut rest)?;
    if length > MAX_EVENTS {
        return Err(Unreadable(format!("{length} events where {MAX_EVENTS} are the most")));
    }
    for _ in 0..length {
        let record = Fields::of(cut(&mut rest, record, types)?, record, types)?;
        if of_transaction(&record, types)? != Some(transaction) {
            continue;
        }
        let (mut event, event_type) = record.raw("event")?;
        let pallet = variant(&mut event, event_type, types)?;
        if pallet.name != "System" {
            continue;
        }
        let Some((mut event, event_type)) = pallet.fields.first() else { continue };
        let event = variant(&mut event, event_type, types)?;
        match event.name {
            "ExtrinsicSuccess" => return Ok(Ok(())),
            "ExtrinsicFailed" => {
                let (mut error, error_type) = event.fields.raw("dispatch_error")?;
                return dispatch_error(runtime, &mut error, error_type).map(Err);
            }
            _ => {}
        }
    }
    Err(Unreadable(format!("no event tells what became of transaction {transaction} of the block")))
}

fn of_transaction(record: &Fields<'_>, types: &PortableRegistry) -> Result<Option<u32>, Unreadable> {
    let (mut phase, phase_type) = record.raw("phase")?;
    let phase = variant(&mut phase, phase_type, types)?;
    if phase.name != "ApplyExtrinsic" {
        return Ok(None);
    }
    let (index, ty) = phase.fields.first().ok_or_else(|| Unreadable("a phase without its number".to_owned()))?;
    super::scale::whole(index, ty, types).map(Some)
}

/// `NeuronNoValidatorPermit` for a pallet's own error, `BadOrigin` or `Token.FundsUnavailable` for the others.
fn dispatch_error<'a>(runtime: &'a Runtime, error: &mut &'a [u8], error_type: u32) -> Result<String, Unreadable> {
    let types = runtime.metadata().types();
    let chosen = variant(error, error_type, types)?;
    let Some((mut inner, inner_type)) = chosen.fields.first() else { return Ok(chosen.name.to_owned()) };
    if chosen.name != "Module" {
        let detail = variant(&mut inner, inner_type, types).map(|detail| format!("{}.{}", chosen.name, detail.name));
        return Ok(detail.unwrap_or_else(|_| chosen.name.to_owned()));
    }
    let module = Fields::of(inner, inner_type, types)?;
    let (pallet, error): (u8, [u8; 4]) = (module.get("index")?, module.get("error")?);
    let found = runtime.metadata().pallet_by_error_index(pallet);
    let name = found.and_then(|found| found.error_variant_by_index(error[0])).map(|variant| variant.name.clone());
    Ok(name.unwrap_or_else(|| format!("Module({pallet}).{}", error[0])))
}

/// It is in a block, and failed there.
pub(crate) fn failed_in_block(call: &str, block: u64, name: String) -> ChainError {
    ChainError::FailedInBlock { call: call.to_owned(), block: Block(block), name }
}
