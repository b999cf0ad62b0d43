//! Renders the chart as a user does, with the helm that `tests/tools` builds.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

/// Where the control plane is installed.
pub const NAMESPACE: &str = "heddle-system";

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// What `helm template` prints for further arguments of its own, or why it refuses.
///
/// # Errors
/// What helm says.
pub fn template(arguments: &[&str]) -> Result<String, String> {
    helm(&[&["template", "heddle", "charts/heddle", "--namespace", NAMESPACE], arguments].concat())
}

/// The objects that an installation with these arguments makes.
///
/// # Errors
/// What helm says, or what is no YAML.
pub fn objects(arguments: &[&str]) -> Result<Vec<Value>, String> {
    parse(&template(arguments)?)
}

/// The documents of `text`, without the empty ones.
///
/// # Errors
/// What is no YAML.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents = serde_norway::Deserializer::from_str(text);
    let values = documents.map(Value::deserialize).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(|error| error.to_string())?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

/// What helm prints, or what it says when it fails.
///
/// # Errors
/// What helm says.
pub fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program()?).args(arguments).current_dir(root()).output();
    let output = output.map_err(|error| format!("helm does not run: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr) + &text(&output.stdout))
    }
}

/// In `HEDDLE_TOOLS`, or where `tests/tools/build.sh` keeps it; the first run builds it, which takes minutes.
fn program() -> Result<PathBuf, String> {
    static PLACE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PLACE.get_or_init(built).clone()
}

fn built() -> Result<PathBuf, String> {
    if let Some(place) = std::env::var_os("HEDDLE_TOOLS") {
        return Ok(PathBuf::from(place).join("helm"));
    }
    let output = Command::new(root().join("tests/tools/build.sh")).arg("helm").output();
    let output = output.map_err(|error| format!("tests/tools/build.sh does not run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()).join("helm"))
}
