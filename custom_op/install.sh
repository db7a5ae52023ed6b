#!/usr/bin/env bash
# Builds the MatMulInteger plugin of ATC and puts it where ATC looks; run it again at any time.
set -euo pipefail

umask 022  # ATC is run by others than root
readonly HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly VENDOR=tinyllama_ros
readonly LIBRARY=libcust_onnx_parsers.so
readonly OPERATOR=MatMulInteger
readonly SAMPLE=tools/msopgen/template/custom_operator_sample/DSL/Onnx

usage() {
  cat <<TEXT
usage: install.sh [--toolkit DIR] [--via ROUTE] [--check | --uninstall]

Teaches ATC the ONNX operator $OPERATOR: builds a plugin with this machine's compiler and
installs it under opp/vendors/$VENDOR of the CANN toolkit. Nothing else of it is changed.

  --toolkit DIR  folder of the toolkit (default: \$ASCEND_TOOLKIT_HOME, \$ASCEND_HOME_PATH, then
                 the usual places in /usr/local/Ascend and ~/Ascend)
  --via ROUTE    how to build: cmake; compiler, without CMake; msopgen, in a copy of the toolkit's
                 sample project (default: the first of them that works)
  --check        say what is installed and what is missing; change nothing
  --uninstall    take it away again
TEXT
}

say() { printf '%s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

find_toolkit() {
  local place
  for place in "${ASCEND_TOOLKIT_HOME:-}" "${ASCEND_HOME_PATH:-}" \
      {/usr/local/Ascend,"$HOME/Ascend"}/{ascend-toolkit/latest,cann,latest}; do
    if [[ -n $place && -d $place/opp ]]; then
      say "$place"
      return
    fi
  done
  die 'no CANN toolkit found: neither ASCEND_TOOLKIT_HOME nor ASCEND_HOME_PATH is set, and' \
      '/usr/local/Ascend and ~/Ascend hold none; install it, source its set_env.sh, or name it' \
      'with --toolkit DIR'
}

toolkit_version() {
  local file
  for file in "$toolkit"/{,"$(uname -m)-linux/"}ascend_toolkit_install.info \
      "$toolkit"/{compiler,opp}/version.info; do
    if [[ -r $file ]]; then
      sed -nE 's/^(version|version_dir)=//p' "$file" | head -n 1
      return
    fi
  done
}

header_folder() {
  local place
  for place in "$toolkit"/{include,"$(uname -m)-linux/include",compiler/include}; do
    if [[ -r $place/register/register.h ]]; then
      say "$place"
      return
    fi
  done
}

library_folders() {
  local place
  for place in "$toolkit"/{lib64,"$(uname -m)-linux/lib64",compiler/lib64}; do
    [[ -d $place ]] && say "$place"
  done
  return 0
}

find_library() {
  local folder
  while IFS= read -r folder; do
    if [[ -e $folder/lib$1.so ]]; then
      say "$folder/lib$1.so"
      return
    fi
  done < <(library_folders)
}

# The vendors that ATC loads, one a line. It reads the first line of the file only, and none of
# them where that line has another form.
listed_vendors() {
  [[ -e $config ]] || return 0
  [[ -f $config && -r $config ]] || return 1
  [[ -s $config ]] || return 0
  local line=''
  read -r line <"$config" || true
  [[ $line =~ ^[[:space:]]*load_priority[[:space:]]*=([^=]*)$ ]] || return 1
  tr ',' '\n' <<<"${BASH_REMATCH[1]}" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//; /^$/d'
}

write_config() {
  local line='' vendor
  for vendor in "$@"; do line+=${line:+,}$vendor; done
  if [[ -z $line ]]; then
    rm -f "$config"
    return
  fi
  line=load_priority=$line
  [[ -s $config && $(head -n 1 "$config") == "$line" ]] && return
  [[ -e $config ]] && cp -p "$config" "$config.part"  # keeps who may read it
  say "$line" >"$config.part"
  mv -f "$config.part" "$config"
}

config_is_broken() {
  [[ -f $config && -r $config ]] ||
    die "$config is no file that can be read; mend or remove it, and run this again"
  die "$config begins with '$(head -n 1 "$config")', not with load_priority=VENDOR,...: ATC then" \
      'loads no vendor at all; mend that line, or remove the file and run this again'
}

# Each thing that is missing, with its remedy.
missing() {
  [[ -d $opp/built-in ]] ||
    say "$opp/built-in: the toolkit's operators; install the whole toolkit, not only its run time"
  [[ -n $(header_folder) || -d $toolkit/$SAMPLE ]] ||
    say "$toolkit/include/register/register.h: install the toolkit (Ascend-cann-toolkit), not" \
        'only nnrt or nnae'
  command -v "${CXX:-g++}" >/dev/null ||
    say "${CXX:-g++}: the C++ compiler; run: sudo apt install g++"
  local folder=$vendors
  while [[ ! -e $folder ]]; do folder=$(dirname "$folder"); done
  [[ -d $folder && -w $folder ]] ||
    say "permission to write $folder: run this as the toolkit's owner, for example:" \
        "$as_owner"
}

via_cmake() {
  cmake -S "$HERE" -B "$scratch/cmake" -DASCEND_TOOLKIT="$toolkit" -DCMAKE_BUILD_TYPE=Release &&
    cmake --build "$scratch/cmake" && cp "$scratch/cmake/$LIBRARY" "$scratch/$LIBRARY"
}

# The same flags as CMakeLists.txt.
via_compiler() {
  local libraries
  mapfile -t libraries < <(find_library register; find_library graph)
  "${CXX:-g++}" -std=c++11 -shared -fPIC -O2 -Wall -Wextra -fstack-protector-all \
    -fvisibility=hidden -D_GLIBCXX_USE_CXX11_ABI=0 -Dgoogle=ascend_private \
    -isystem "$(header_folder)" "$HERE/matmul_integer_plugin.cc" -o "$scratch/$LIBRARY" \
    -s -Wl,-z,relro,-z,now,-z,noexecstack ${libraries[@]+"${libraries[@]}"}
}

# In a copy, without its demo operator: that needs protobuf, and would be installed too.
via_msopgen() {
  local copy=$scratch/sample headers setting name built
  headers=$(header_folder)
  headers=${headers:-$toolkit/include}
  [[ -r $toolkit/$SAMPLE/build.sh ]] || { say "$toolkit/$SAMPLE/build.sh is missing"; return 1; }
  cp -r "$toolkit/$SAMPLE" "$copy" && chmod -R u+w "$copy" || return 1
  rm -rf "$copy"/{op_proto,op_tiling,tbe,cpukernel,testcases} "$copy"/framework/*_plugin
  mkdir -p "$copy/framework/onnx_plugin"
  cp "$toolkit/$SAMPLE/framework/onnx_plugin/CMakeLists.txt" "$HERE/matmul_integer_plugin.cc" \
    "$copy/framework/onnx_plugin" || return 1
  for setting in "ASCEND_TENSOR_COMPILER_INCLUDE=$headers" TOOLCHAIN_DIR=/usr \
      AICPU_KERNEL_TARGET=cust_aicpu_kernels AICPU_SOC_VERSION=Ascend310B4; do
    name=${setting%%=*}
    sed -i -E "/^(# *)?export $name=/d" "$copy/build.sh"
    sed -i "1a export $name='${setting#*=}'" "$copy/build.sh"
  done
  # The plugin is taken from where the package would be packed from; packing it may well fail.
  (cd "$copy" && bash ./build.sh) || true
  built=$(find "$copy/build_out" -name "$LIBRARY" -print -quit 2>/dev/null)
  [[ -n $built ]] && cp "$built" "$scratch/$LIBRARY"
}

is_possible() {
  case $1 in
    cmake) command -v cmake >/dev/null && [[ -n $(header_folder) ]] ;;
    compiler) [[ -n $(header_folder) ]] ;;
    msopgen) [[ -d $toolkit/$SAMPLE ]] ;;
  esac
}

# Leaves the plugin in $scratch, or says what each way of building it printed.
build() {
  local route failed=()
  for route in "${routes[@]}"; do
    is_possible "$route" || continue
    say "building with $route"
    rm -f "$scratch/$LIBRARY"
    if "via_$route" >"$scratch/$route.log" 2>&1 && defines_operator "$scratch/$LIBRARY"; then
      return
    fi
    failed+=("$route")
    printf '%s failed:\n' "$route" >&2
    tail -n 15 "$scratch/$route.log" | sed 's/^/  /' >&2
  done
  [[ ${#failed[@]} -gt 0 ]] || die "the plugin cannot be built via ${routes[*]} here: for cmake" \
    "and compiler $toolkit lacks include/register/register.h (or cmake is not installed), for" \
    "msopgen it lacks $SAMPLE"
  die "the plugin could not be built via ${failed[*]}; what they printed is above"
}

defines_operator() { [[ -r $1 ]] && grep -qF "ai.onnx::13::$OPERATOR" "$1"; }

# Prints what the loader could not find for the plugin. One that is not linked to the library that
# registers plugins (the sample's is not) finds its symbols in ATC, which has that library loaded.
unresolved() {
  local path report faults='not found|not a dynamic'
  path=$(library_folders | tr '\n' ':')
  report=$(LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:-} ldd -r "$1" 2>&1) || true
  [[ $report == *libregister.so* ]] && faults+='|undefined symbol'
  grep -E "$faults" <<<"$report" | sed 's/^[[:space:]]*//' | head -n 3 || true
}

install_plugin() {
  local lacks known=() target=$vendors/$VENDOR/framework/onnx
  lacks=$(missing)
  [[ -z $lacks ]] || die "missing:"$'\n'"$(sed 's/^/  /' <<<"$lacks")"
  if ! listed_vendors >/dev/null; then config_is_broken; fi
  mapfile -t known < <(listed_vendors)
  build
  if [[ -f $target/$LIBRARY ]] && cmp -s "$scratch/$LIBRARY" "$target/$LIBRARY"; then
    say "unchanged: $target/$LIBRARY"
  else
    mkdir -p "$target"
    install -m 644 "$scratch/$LIBRARY" "$target/.$LIBRARY.part"
    mv -f "$target/.$LIBRARY.part" "$target/$LIBRARY"
    say "installed: $target/$LIBRARY"
  fi
  # Last in the list: what others have installed keeps its place.
  [[ " ${known[*]-} " == *" $VENDOR "* ]] || write_config ${known[@]+"${known[@]}"} "$VENDOR"
  check
}

check() {
  local faults=() lacks found file
  file=$vendors/$VENDOR/framework/onnx/$LIBRARY
  if ! listed_vendors >/dev/null; then config_is_broken; fi
  if [[ ! -r $file ]]; then
    lacks=$(missing)
    die "not installed: there is no $file; run: $0${lacks:+$'\n'"which still lacks:"$'\n'$lacks}"
  fi
  defines_operator "$file" || faults+=("$file does not register $OPERATOR; install it again")
  grep -qxF "$VENDOR" <<<"$(listed_vendors)" ||
    faults+=("$config does not list $VENDOR; install it again")
  found=$(unresolved "$file")
  [[ -z $found ]] ||
    faults+=("$file cannot be loaded with this toolkit: ${found//$'\n'/; }; install it again")
  [[ ${#faults[@]} -eq 0 ]] || die "$(printf '%s\n' "${faults[@]}")"
  if [[ -n ${ASCEND_OPP_PATH:-} && $(realpath -m "$ASCEND_OPP_PATH") != $(realpath "$opp") ]]; then
    say "but ASCEND_OPP_PATH is $ASCEND_OPP_PATH, so an ATC started here looks there and not in" \
        "$opp; source the set_env.sh of $toolkit" >&2
  fi
  say "$OPERATOR is known to ATC of $toolkit (CANN $(toolkit_version)): $(realpath "$file")"
}

uninstall() {
  local known=() kept=() vendor
  if ! listed_vendors >/dev/null; then config_is_broken; fi
  mapfile -t known < <(listed_vendors)
  if [[ ! -e $vendors/$VENDOR && " ${known[*]-} " != *" $VENDOR "* ]]; then
    say "not installed in $vendors"
    return
  fi
  [[ -w $vendors ]] || die "no permission to write $vendors; run:" "$as_owner --uninstall"
  for vendor in ${known[@]+"${known[@]}"}; do
    [[ $vendor == "$VENDOR" ]] || kept+=("$vendor")
  done
  write_config ${kept[@]+"${kept[@]}"}
  rm -rf "${vendors:?}/$VENDOR"
  rmdir --ignore-fail-on-non-empty "$vendors"
  say "uninstalled from $vendors"
}

main() {
  local action=install_plugin
  toolkit='' routes=(cmake compiler msopgen)
  while [[ $# -gt 0 ]]; do
    case $1 in
      --toolkit) toolkit=${2:?--toolkit needs a folder}; shift ;;
      --toolkit=*) toolkit=${1#*=} ;;
      --via) routes=("${2:?--via needs cmake, compiler or msopgen}"); shift ;;
      --via=*) routes=("${1#*=}") ;;
      --check) action=check ;;
      --uninstall) action=uninstall ;;
      -h | --help) usage; exit ;;
      *) die "unknown argument $1; see --help" ;;
    esac
    shift
  done
  [[ " cmake compiler msopgen " == *" ${routes[0]} "* ]] ||
    die "--via is '${routes[0]}'; it must be cmake, compiler or msopgen"
  if [[ -n $toolkit ]]; then
    [[ -d $toolkit/opp ]] || die "$toolkit is no CANN toolkit: it has no folder opp"
    opp=$toolkit/opp
  else
    toolkit=$(find_toolkit)
    opp=${ASCEND_OPP_PATH:-$toolkit/opp}
  fi
  printf -v as_owner 'sudo %q --toolkit %q' "$0" "$toolkit"
  vendors=$opp/vendors
  config=$vendors/config.ini
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  "$action"
}

main "$@"
