from pilotfish.daemon import main

main()
