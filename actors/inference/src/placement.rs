//! Which network computes where, and in which numbers.

use std::{collections::BTreeMap, fmt, str::FromStr};

use candle_core::{DType, Device as CandleDevice};
use openvalidators_messages::inference::ModelName;
use serde::{Deserialize, Serialize};

use crate::{config::Config, engine::StartError, models::reason};

/// A device of this machine. Written `cpu`, `cpu:1` or `cuda:0`; without a number it is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// A share of the processor's cores, with threads of its own.
    Cpu(usize),
    /// An NVIDIA GPU, by the number the driver gives it.
    Cuda(usize),
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device; write `cpu`, or with a number `cpu:1` for a share of the cores or `cuda:0` for a GPU")]
pub struct NoDevice(String);

/// The numbers that weights are kept in and products computed in. Norms, softmax, log-probabilities and pooling are computed
/// in f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision, four bytes: what parity is measured in, and the fastest on a processor.
    #[default]
    F32,
    /// Half precision, two bytes; nothing above 65504.
    F16,
    /// The upper half of an f32, two bytes: its range with three significant digits.
    Bf16,
}

/// Where one model goes, where that is not where the others do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// `inference.device` where it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceName>,
    /// `inference.dtype` where it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
}

// === impl DeviceName ===

impl DeviceName {
    /// The device, ready to hold tensors.
    pub(crate) fn open(self) -> Result<CandleDevice, StartError> {
        let Self::Cuda(number) = self else { return Ok(CandleDevice::Cpu) };
        if !candle_core::utils::cuda_is_available() {
            return Err(StartError::NotBuiltFor(self));
        }
        #[cfg(feature = "cuda")]
        let opened = crate::ops::open_gpu(number);
        // Without the feature this says what is missing.
        #[cfg(not(feature = "cuda"))]
        let opened = CandleDevice::new_cuda(number);
        opened.map_err(|error| StartError::NoGpu { device: self, reason: in_words(reason(&error)) })
    }
}

impl FromStr for DeviceName {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let none = || NoDevice(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu(0)),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cpu", number)) => number.parse().map(Self::Cpu).map_err(|_| none()),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| none()),
            _ => Err(none()),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = NoDevice;

    fn try_from(text: String) -> Result<Self, NoDevice> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(0) => f.write_str("cpu"),
            Self::Cpu(number) => write!(f, "cpu:{number}"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// What CUDA's driver says when a device is opened, in words where its code is not enough.
fn in_words(said: String) -> String {
    const CODES: [(&str, &str); 4] = [
        ("CUDA_ERROR_NO_DEVICE", "the driver finds no NVIDIA GPU on this machine"),
        ("CUDA_ERROR_INVALID_DEVICE", "the driver has no GPU of this number"),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER", "the driver is older than the CUDA this program was built with"),
        (
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "the driver is older than the compiler that made this program's kernels",
        ),
    ];
    match CODES.iter().find(|(code, _)| said.contains(code)) {
        Some((code, words)) => format!("{words} ({code})"),
        None => said,
    }
}

// === impl Dtype ===

impl Dtype {
    pub(crate) fn candle(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.candle().as_str())
    }
}

/// The device and the dtype of each of `models`, in their order.
///
/// # Errors
/// When the configuration places a model that is not among them.
pub(crate) fn places<'a>(
    config: &Config,
    models: impl Iterator<Item = &'a ModelName> + Clone,
) -> Result<Vec<(DeviceName, Dtype)>, StartError> {
    if let Some(unknown) = config.placement.keys().find(|placed| !models.clone().any(|model| model == *placed)) {
        let loaded: Vec<String> = models.map(|model| format!("`{model}`")).collect();
        return Err(StartError::PlacedButNotLoaded { model: unknown.clone(), loaded: loaded.join(", ") });
    }
    let place = |model| {
        let Placement { device, dtype } = config.placement.get(model).copied().unwrap_or_default();
        (device.unwrap_or(config.device), dtype.unwrap_or(config.dtype))
    };
    Ok(models.map(place).collect())
}

/// How many threads each device has: those of the processor are divided evenly between its devices, the first ones taking
/// what is left over; a GPU needs one to feed it.
pub(crate) fn threads(devices: &[DeviceName], of_the_processor: usize) -> BTreeMap<DeviceName, usize> {
    let (cpus, others): (Vec<_>, Vec<_>) = devices.iter().partition(|device| matches!(device, DeviceName::Cpu(_)));
    let share = |place: usize| of_the_processor / cpus.len() + usize::from(place < of_the_processor % cpus.len());
    let cpus = cpus.iter().enumerate().map(|(place, device)| (*device, share(place).max(1)));
    cpus.chain(others.into_iter().map(|device| (device, 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in
            [("cpu", DeviceName::Cpu(0)), ("cpu:3", DeviceName::Cpu(3)), ("cuda:1", DeviceName::Cuda(1))]
        {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!(("cpu:0".parse(), "cuda".parse()), (Ok(DeviceName::Cpu(0)), Ok(DeviceName::Cuda(0))));
        for text in ["", "gpu", "cuda:", "cuda:x", "cpu:-1", "CPU", "cuda:0:1"] {
            let error = text.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("`cuda:0` for a GPU"), "{error}");
        }
    }

    #[test]
    fn a_placement_says_what_differs_and_names_a_model_that_is_there() {
        let model = ModelName::new;
        let config: Config = serde_json::from_str(
            r#"{"device": "cpu:1", "dtype": "bf16",
                "placement": {"a": {"device": "cpu"}, "b": {"dtype": "f16"}, "c": {"device": "cuda:0", "dtype": "f32"}}}"#,
        )
        .unwrap();
        let models = ["a", "b", "c", "d"].map(model);
        let expected = [
            (DeviceName::Cpu(0), Dtype::Bf16),
            (DeviceName::Cpu(1), Dtype::F16),
            (DeviceName::Cuda(0), Dtype::F32),
            (DeviceName::Cpu(1), Dtype::Bf16),
        ];
        assert_eq!(places(&config, models.iter()).unwrap(), expected);
        let error = places(&config, models[..2].iter()).unwrap_err().to_string();
        assert!(
            error.contains("inference.placement") && error.contains("`c`") && error.contains("`a`, `b`"),
            "{error}"
        );
        let error = serde_json::from_str::<Config>(r#"{"dtype": "f64"}"#).unwrap_err().to_string();
        assert!(error.contains("f64") && error.contains("`bf16`"), "{error}");
    }

    #[test]
    fn a_driver_is_understood_where_its_code_is_known() {
        let said = "DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")".to_owned();
        assert_eq!(in_words(said), "the driver finds no NVIDIA GPU on this machine (CUDA_ERROR_NO_DEVICE)");
        assert_eq!(in_words("no such kernel".to_owned()), "no such kernel");
    }

    #[test]
    fn cores_are_divided_evenly() {
        let [a, b, c, gpu] = [DeviceName::Cpu(0), DeviceName::Cpu(1), DeviceName::Cpu(7), DeviceName::Cuda(0)];
        assert_eq!(threads(&[a], 8), [(a, 8)].into());
        assert_eq!(threads(&[a, b, c, gpu], 8), [(a, 3), (b, 3), (c, 2), (gpu, 1)].into());
        assert_eq!(threads(&[a, b, c], 2), [(a, 1), (b, 1), (c, 1)].into());
        assert_eq!(threads(&[gpu], 8), [(gpu, 1)].into());
    }
}
