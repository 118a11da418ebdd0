// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "LibkdCore",
    platforms: [.iOS(.v17), .macOS(.v12)],
    products: [.library(name: "LibkdCore", targets: ["LibkdCore"])],
    targets: [.target(name: "LibkdCore")]
)
